"""scripts/setup.py and scripts/setup.sh: what they say about a machine, and when there is something to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chainfl_setup", REPOSITORY / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the files that decide what is installed."""
    for name in setup.LOCKED_BY:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def run_setup_sh(path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a copy of setup.sh with the programs of `path` and dirname alone, in a folder without a .venv."""
    scripts = path / "scripts"
    scripts.mkdir()
    (scripts / "setup.sh").write_text((REPOSITORY / "scripts" / "setup.sh").read_text())
    script(path, "dirname", 'echo "${1%/*}"')
    environment = {"PATH": str(path)}
    return subprocess.run(
        ["/bin/sh", scripts / "setup.sh"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", ["v20.0.0", "v20.20.2\n", "v24.1.0", "v22.0.0-nightly"])
def test_node_problem__new_enough__none(version: str) -> None:
    assert setup.node_problem(version) is None


@pytest.mark.parametrize(
    ("version", "said"), [(None, "missing"), ("v19.9.0", "v19.9.0 is too old"), ("hello", "does not answer")]
)
def test_node_problem__missing_or_old__says_what_to_install(version: str | None, said: str) -> None:
    problem = setup.node_problem(version)
    assert said in problem
    assert "install Node 20" in problem


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("linux", "x86_64", "glibc"), ("linux", "aarch64", "glibc"), ("darwin", "arm64", "")],
)
def test_platform_problem__machine_with_wheels__none(system: str, machine: str, libc: str) -> None:
    assert setup.platform_problem(system, machine, libc) is None


@pytest.mark.parametrize(
    ("system", "machine", "libc", "said"),
    [
        ("darwin", "x86_64", "", "Intel Macs"),
        ("linux", "x86_64", "", "Alpine"),
        ("linux", "riscv64", "glibc", "not on linux riscv64"),
        ("win32", "AMD64", "", "not on win32"),
    ],
)
def test_platform_problem__machine_without_wheels__says_so(system: str, machine: str, libc: str, said: str) -> None:
    assert said in setup.platform_problem(system, machine, libc)


def test_cache_folder__environment__chainfl_cache_before_xdg() -> None:
    assert setup.cache_folder({"CHAINFL_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert setup.cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/chainfl")
    assert setup.cache_folder({}) == Path.home() / ".cache" / "chainfl"


def test_fingerprint__nothing_changed__same(clone: Path) -> None:
    assert setup.fingerprint(clone, "3.12") == setup.fingerprint(clone, "3.12")


@pytest.mark.parametrize("name", setup.LOCKED_BY)
def test_fingerprint__a_file_changed__differs(clone: Path, name: str) -> None:
    before = setup.fingerprint(clone, "3.12")
    (clone / name).write_text("changed")
    assert setup.fingerprint(clone, "3.12") != before


def test_fingerprint__another_python__differs(clone: Path) -> None:
    assert setup.fingerprint(clone, "3.12") != setup.fingerprint(clone, "3.11")


def test_locked_requirement__uv__its_version_and_hashes_alone() -> None:
    lines = setup.locked_requirement((REPOSITORY / "requirements.txt").read_text(), "uv").splitlines()
    assert lines[0].startswith("uv==")
    assert all("--hash=sha256:" in line for line in lines[1:])
    assert len(lines) > 1


def test_locked_requirement__not_locked__error() -> None:
    with pytest.raises(setup.SetupError, match="does not lock uv"):
        setup.locked_requirement("numpy==1.26.4 \\\n    --hash=sha256:00\n", "uv")


def test_run_quietly__no_network__one_line() -> None:
    command = ["sh", "-c", "echo npm error code ENOTFOUND; exit 1"]
    with pytest.raises(setup.SetupError, match=r"^fetching: no network; check the connection .* run it again"):
        setup.run_quietly(command, os.environ, "fetching")


def test_run_quietly__other_failure__shows_what_the_tool_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(setup.SetupError, match="for the reason above"):
        setup.run_quietly(["sh", "-c", "echo disk full >&2; exit 1"], os.environ, "fetching")
    assert "disk full" in capfd.readouterr().err


def test_setup_sh__no_python__one_line_that_says_what_to_install(tmp_path: Path) -> None:
    done = run_setup_sh(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: no Python found; chainfl needs 3.11 or 3.12: install one")
    assert done.stderr.count("\n") == 1


def test_setup_sh__only_another_python__names_its_version(tmp_path: Path) -> None:
    script(tmp_path, "python3", '[ "$1" = --version ] && echo Python 3.13.0 || echo version')
    done = run_setup_sh(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: Python 3.13.0 is there, but chainfl needs 3.11 or 3.12")


def test_setup_sh__python_without_venv__says_what_to_install(tmp_path: Path) -> None:
    script(tmp_path, "python3.12", "echo venv")
    assert "apt install python3-venv" in run_setup_sh(tmp_path).stderr


def test_setup_sh__shim_that_fails__passed_over_for_one_that_runs(tmp_path: Path) -> None:
    script(tmp_path, "python3.12", "exit 127")
    script(tmp_path, "python3", '[ "$2" = -c ] || echo "runs $2"')
    assert run_setup_sh(tmp_path).stdout == "runs scripts/setup.py\n"
