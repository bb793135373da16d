"""Sets up chainfl in this clone: a virtual environment, the locked Python packages, Anvil, forge and solc.

Run it as scripts/setup.sh, which finds a Python that can. It is done once: a stamp in .venv remembers what was
installed, and while nothing changed a second run only compares it (about 0.1 s). It can be stopped at any moment and
run again: what was downloaded stays in the cache. Nothing is written outside of this folder and the cache folder,
`$CHAINFL_CACHE`, else `$XDG_CACHE_HOME/chainfl`, else `~/.cache/chainfl`. `make clean` takes it all away again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NODE_MODULES = ROOT / "node_modules"
STAMP = VENV / "chainfl-setup.sha256"
LOCKED_BY = ("requirements.txt", "pyproject.toml", "package.json", "package-lock.json", "scripts/setup.py")

MIN_NODE_MAJOR = 20
# Megabytes, measured on Linux x86-64 with an empty cache; for the Mac, the same less what it does not need (CUDA).
DOWNLOAD_MB = {"linux": 3300, "darwin": 400}
DISK_MB = {"linux": 6200, "darwin": 1400}
# npm's names for what Python calls the machine.
NPM_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

OFFLINE_SIGNS = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolutionError|Failed to establish a new connection"
    r"|Tunnel connection failed|ProxyError"
    r"|Temporary failure in name resolution|Name or service not known|Network is unreachable"
    r"|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT",
)


Command = Sequence[str | Path]


class SetupError(Exception):
    """Set-up cannot go on; the message says what happened and what to do, one line each."""


def say(line: str) -> None:
    """Talk goes to stderr, so that the output of what runs after the set-up stays clean."""
    print(f"set-up: {line}", file=sys.stderr, flush=True)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The one folder outside of the repository that set-up writes to."""
    if chosen := environment.get("CHAINFL_CACHE"):
        return Path(chosen).expanduser().absolute()
    caches = environment.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "chainfl"


# --- Is there anything to do? ---------------------------------------------------------------------


def fingerprint(root: Path, python: str) -> str:
    """A hash of everything that decides what gets installed, the folder included (scripts in .venv name it)."""
    digest = hashlib.sha256(f"{root}\n{python}\n{sys.platform} {platform.machine()}\n".encode())
    for name in LOCKED_BY:
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


def current_fingerprint() -> str:
    """The fingerprint of this clone with the Python that runs this script."""
    return fingerprint(ROOT, ".".join(map(str, sys.version_info[:2])))


def is_done() -> bool:
    """Whether an earlier set-up installed exactly this, and it is still there."""
    installed = (VENV / "bin" / "chainfl", NODE_MODULES / ".bin" / "forge", STAMP)
    return all(path.exists() for path in installed) and STAMP.read_text() == current_fingerprint()


# --- What the machine lacks -----------------------------------------------------------------------


def platform_problem(system: str, machine: str, libc: str) -> str | None:
    """Why no wheels exist for this machine, or None when they do."""
    if system == "darwin" and machine == "x86_64":
        return (
            "PyTorch has no packages for Intel Macs; use a Mac with Apple silicon, or Linux"
            " (on Apple silicon: this Python is an Intel build, install the arm64 one)"
        )
    if system not in DOWNLOAD_MB or machine not in NPM_ARCHITECTURES:
        return f"chainfl runs on Linux (x86-64, arm64) and macOS (Apple silicon), not on {system} {machine}"
    if system == "linux" and libc != "glibc":
        return "PyTorch has no packages for a Linux without glibc (such as Alpine); use Debian, Ubuntu, Fedora or alike"
    return None


def node_problem(version: str | None) -> str | None:
    """What to say about a `node --version` (None: there is no Node), or None when it is new enough."""
    install = f"install Node {MIN_NODE_MAJOR} or later with npm (https://nodejs.org; macOS: brew install node)"
    if version is None:
        return f"Node is missing: {install}"
    match = re.fullmatch(r"v(\d+)\.\S+", version.strip())
    if not match:
        return f"`node --version` does not answer with a version: {install}"
    if int(match[1]) < MIN_NODE_MAJOR:
        return f"Node {version.strip()} is too old: {install}"
    return None


def answer_of(*command: str) -> str | None:
    """What a tool prints; None when it is not there or does not run (a version manager's shim with nothing behind)."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 else None


def missing_tools() -> list[str]:
    """One line for each thing that has to be installed first."""
    libc = platform.libc_ver()[0] if sys.platform == "linux" else ""
    problems = [platform_problem(sys.platform, platform.machine(), libc), node_problem(answer_of("node", "--version"))]
    if problems[1] is None and answer_of("npm", "--version") is None:
        problems.append("npm is missing: it comes with Node (Debian and Ubuntu: apt install npm)")
    return [problem for problem in problems if problem]


# --- Installing -----------------------------------------------------------------------------------


def announce(cache: Path) -> None:
    """Says before the first byte how much there is to come and where it goes."""
    why = " (PyTorch for Linux brings its CUDA libraries)" if sys.platform == "linux" else ""
    say(f"downloads up to {DOWNLOAD_MB[sys.platform] / 1000:.1f} GB once{why}; what an earlier run fetched is kept")
    disk = f"{DISK_MB[sys.platform] / 1000:.1f} GB"
    say(f"writes {disk} to .venv, node_modules and {cache}; `make clean` takes them away")
    free_mb = shutil.disk_usage(ROOT).free // 10**6
    if free_mb < DISK_MB[sys.platform] and not VENV.exists():
        say(f"warning: only {free_mb / 1000:.1f} GB are free on this disk")


def tool_environment(cache: Path) -> dict[str, str]:
    """The caller's environment, with every tool's cache in ours and no user-wide setting that breaks a venv."""
    ours = {
        "PIP_CACHE_DIR": str(cache / "pip"),
        "PIP_USER": "0",
        "UV_CACHE_DIR": str(cache / "uv"),
        "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "120"),
        "npm_config_cache": str(cache / "npm"),
    }
    if sys.platform == "linux" and cache.stat().st_dev != ROOT.stat().st_dev:
        ours["UV_LINK_MODE"] = "copy"
    return {**os.environ, **ours}


def run_loudly(command: Command, environment: Mapping[str, str], what: str) -> None:
    """Runs a command whose progress the user sees; SetupError when it fails."""
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SetupError(
            f"{what} failed, for the reason above; if it was the network, run it again: it resumes where it stopped"
        )


def run_quietly(command: Command, environment: Mapping[str, str], what: str) -> None:
    """Runs a command whose output matters only when it fails; SetupError then, short when the network was to blame."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if not done.returncode:
        return
    said = done.stdout + done.stderr
    if OFFLINE_SIGNS.search(said):
        raise SetupError(
            f"{what}: no network; check the connection (or the proxy settings) and run it again: it resumes"
        )
    print(said, file=sys.stderr)
    raise SetupError(f"{what} failed, for the reason above")


def create_environment(environment: Mapping[str, str]) -> None:
    """Makes .venv, again when it belongs to another Python or to another folder than this one."""
    configuration = VENV / "pyvenv.cfg"
    version = f"version = {platform.python_version()}"
    if configuration.exists() and (VENV / "bin" / "pip").exists():
        text = configuration.read_text()
        if version in text and str(VENV) in text:
            return
    base = getattr(sys, "_base_executable", sys.executable)
    run_quietly([base, "-m", "venv", "--clear", VENV], environment, "making the virtual environment")


def locked_requirement(lock: str, name: str) -> str:
    """The lines of one package in requirements.txt: its version and its hashes."""
    match = re.search(rf"^{re.escape(name)}==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    if not match:
        raise SetupError(f"requirements.txt does not lock {name}; run `make lock`")
    return match[0]


def install_uv(environment: Mapping[str, str]) -> None:
    """Installs uv at the locked version and hash: it installs the rest ten times faster than pip."""
    requirement = locked_requirement((ROOT / "requirements.txt").read_text(), "uv")
    version = requirement.split()[0].removeprefix("uv==")
    if (answer_of(str(VENV / "bin" / "uv"), "--version") or "").split()[1:2] == [version]:
        return
    say("fetching uv, which installs the rest")
    with tempfile.NamedTemporaryFile("w", dir=VENV, suffix=".txt") as file:
        file.write(requirement)
        file.flush()
        pip: Command = [VENV / "bin" / "python", "-m", "pip", "install", "--require-hashes", "--no-deps"]
        options = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
        run_quietly([*pip, *options, "-r", file.name], environment, "fetching uv")


def install_python_packages(environment: Mapping[str, str]) -> None:
    """Installs what requirements.txt locks, every file checked against its hash, then this package in place."""
    install: Command = [VENV / "bin" / "uv", "pip", "install", "--python", VENV / "bin" / "python"]
    # What comes as source (this package, and three of ape's) is built with the locked setuptools, not with today's.
    builds = ["--build-constraints", "requirements.txt"]
    # Compiled once here: otherwise nine processes would compile torch at once when the demo starts.
    locked = ["--compile-bytecode", "--require-hashes", "-r", "requirements.txt"]
    run_loudly([*install, *builds, *locked], environment, "installing the Python packages")
    editable = ["--quiet", "--no-deps", "--editable", "."]
    run_loudly([*install, *builds, *editable], environment, "installing chainfl")


def foundry_packages() -> dict[str, str]:
    """The packages that hold this machine's Anvil and forge, by the tool's name: {"anvil": "@foundry-rs/anvil-..."}."""
    suffix = f"{sys.platform}-{NPM_ARCHITECTURES[platform.machine()]}"
    return {tool: f"@foundry-rs/{tool}-{suffix}" for tool in ("anvil", "forge")}


def install_node_packages(environment: Mapping[str, str]) -> None:
    """Installs Anvil, forge, solc and OpenZeppelin; no package may run a script, and the lock is left as it is."""
    say("fetching Anvil, forge, solc and OpenZeppelin from npm")
    pinned: dict[str, str] = json.loads((ROOT / "package.json").read_text())["dependencies"]
    # By name as well: npm 10 leaves out an optional package of another machine than the one that wrote the lock.
    binaries = [f"{package}@{pinned[f'@foundry-rs/{tool}']}" for tool, package in foundry_packages().items()]
    quiet = ["--no-save", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=2000"]
    run_quietly(["npm", "install", *quiet, *patience, *binaries], environment, "fetching the npm packages")
    for tool, package in foundry_packages().items():
        link_binary(tool, NODE_MODULES / package / "bin" / tool)


def link_binary(tool: str, binary: Path) -> None:
    """Puts a tool into node_modules/.bin: npm 10 may leave it out there, because two packages claim the name."""
    if not binary.exists():
        raise SetupError(f"npm did not bring {tool} for this machine; remove node_modules and run it again")
    link = NODE_MODULES / ".bin" / tool
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / binary.relative_to(NODE_MODULES))


def check_installation(environment: Mapping[str, str]) -> None:
    """Starts each part once, so that what this machine cannot run is said now (and Python's bytecode is there)."""
    run_quietly([VENV / "bin" / "python", "-c", "import torch, sklearn, web3"], environment, "loading PyTorch")
    for tool in foundry_packages():
        run_quietly([NODE_MODULES / ".bin" / tool, "--version"], environment, f"starting {tool}")


def install(cache: Path) -> None:
    """The whole set-up, each step of which finds what an earlier run left."""
    if problems := missing_tools():
        raise SetupError("\n".join(problems))
    announce(cache)
    started_s = time.monotonic()
    cache.mkdir(parents=True, exist_ok=True)
    environment = tool_environment(cache)
    create_environment(environment)
    STAMP.unlink(missing_ok=True)
    install_uv(environment)
    install_python_packages(environment)
    install_node_packages(environment)
    check_installation(environment)
    STAMP.write_text(current_fingerprint())
    say(f"done in {time.monotonic() - started_s:.0f} s")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits while another set-up works on this clone."""
    lock = ROOT / ".build" / "setup.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this folder is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Sets up unless that was done; returns the exit code."""
    try:
        if is_done():
            return 0
        with one_at_a_time():
            if not is_done():
                install(cache_folder(os.environ))
    except SetupError as error:
        for line in str(error).splitlines():
            say(line)
        return 1
    except OSError as error:
        say(f"{error.strerror}: {error.filename}")
        return 1
    except KeyboardInterrupt:
        say("stopped; run it again to carry on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
