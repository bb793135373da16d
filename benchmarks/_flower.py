"""Flower in an environment of its own, since it pins its own click and protobuf; scripts run there as processes.

It goes to the cache folder (`$CHAINFL_CACHE`, else `$XDG_CACHE_HOME/chainfl`, else `~/.cache/chainfl`), once, with
chainfl's own version of numpy: what is compared is the two programs, not two releases of a third one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from chainfl.config import cache_home

VERSION = "1.41.0"
_HERE = Path(__file__).resolve().parent


def flower(script: str, *, extra: str = "", **inputs: Any) -> dict[str, Any]:
    """What benchmarks/SCRIPT, run beside Flower, prints: JSON from JSON. What the script lacks it may take from here.

    extra: of Flower's package, such as `simulation`, which brings ray; it has an environment of its own.
    Raises SystemExit with its last lines when it fails.
    """
    environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": ""}
    inputs |= {"also": [str(_HERE.parent), str(Path(np.__file__).parents[1])]}
    command = [str(_python(extra)), str(_HERE / script), json.dumps(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{script} failed beside Flower {VERSION}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _python(extra: str) -> Path:
    """The environment's interpreter; it is made where it is not there or was not finished."""
    wanted, name = (f"flwr[{extra}]", f"flower-{extra}") if extra else ("flwr", "flower")
    home = Path(os.environ.get("CHAINFL_CACHE") or cache_home()).expanduser() / f"{name}-{VERSION}-{np.__version__}"
    if not (home / "complete").exists():
        print(f"installing Flower {VERSION} into {home} (once)", file=sys.stderr)
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(home))
        _uv("pip", "install", "--quiet", "--python", str(home), f"{wanted}=={VERSION}", f"numpy=={np.__version__}")
        (home / "complete").touch()  # last, so that an installation that was stopped is done again
    return home / "bin" / "python"


def _uv(*arguments: str) -> None:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise SystemExit("Flower is installed with uv, which is not there: pip install -e '.[dev]'")
    if subprocess.run([uv, *arguments], check=False).returncode:
        raise SystemExit(f"Flower {VERSION} could not be installed; its packages come from PyPI. See above for why.")
