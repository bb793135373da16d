"""Flower in an environment of its own, since it pins its own click and protobuf; scripts run there as processes.

It goes to the cache folder (`$CHAINFL_CACHE`, else `$XDG_CACHE_HOME/chainfl`, else `~/.cache/chainfl`), once, with
chainfl's own version of numpy: what is compared is the two programs, not two releases of a third one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from chainfl.config import cache_home

VERSION = "1.41.0"
GRACE_S = 20.0
_HERE = Path(__file__).resolve().parent


def flower(script: str, *, extra: str = "", **inputs: Any) -> dict[str, Any]:
    """What benchmarks/SCRIPT, run beside Flower, prints: JSON from JSON. What the script lacks it may take from here.

    extra: of Flower's package, such as `simulation`, which brings ray; it has an environment of its own.
    Raises SystemExit with its last lines when it fails.
    """
    done = subprocess.run(_command(script, extra, inputs), capture_output=True, text=True, check=False, env=_env())
    if done.returncode:
        raise _failed(script, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def flower_process(script: str, *, extra: str = "", **inputs: Any) -> Iterator[tuple[IO[str], IO[str]]]:
    """The same, while it runs: what it reads, and what it prints, for `said`. Ends it, if it has not ended."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            _command(script, extra, inputs),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_env(),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        except EOFError:
            errors.seek(0)
            raise _failed(script, errors.read()) from None
        finally:
            _end(process)


def said(lines: IO[str], key: str) -> Any:
    """The value of `key` in the next line of JSON that has it. Raises EOFError where none comes."""
    for line in lines:
        if line.startswith("{") and key in (found := json.loads(line)):
            return found[key]
    raise EOFError(key)


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(script: str, extra: str, inputs: Mapping[str, Any]) -> list[str]:
    also = [str(_HERE.parent), str(Path(np.__file__).parents[1])]
    return [str(_python(extra)), str(_HERE / script), json.dumps({**inputs, "also": also})]


def _env() -> dict[str, str]:
    return os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": ""}


def _failed(script: str, errors: str) -> SystemExit:
    return SystemExit(f"{script} failed beside Flower {VERSION}:\n{errors[-2000:]}")


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
