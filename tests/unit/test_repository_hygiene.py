"""What must hold for the repository's files themselves."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.txt", "package-lock.json")
# Written in two halves, so that this file does not find itself.
REGISTRY_HOSTS = [
    ".".join(halves)
    for halves in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("proxy.golang", "org"),
        ("crates", "io"),
    )
]
UNFINISHED = re.compile(r"\b(?:" + "TO" + "DO|FIX" + r"ME)\b")
MACHINE_PATH = re.compile(r"""(?:^|[\s"'`=(:])/(?:work|root|home/[a-z]\w*|Users/[A-Za-z]\w*)/\w""", re.MULTILINE)
REQUIREMENT = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,]+\])?==(\S+)", re.MULTILINE)


def tracked_files() -> list[Path]:
    """The files that git has or would take up; without git (an unpacked archive) the tests here are skipped."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def texts() -> dict[str, str]:
    """Every text file by its name; pictures and other binary files are left out."""
    found = {}
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found[str(path.relative_to(REPOSITORY))] = content.decode()
    return found


def python_modules() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def test_files__registry_host__named_nowhere() -> None:
    assert [(name, host) for name, text in texts().items() for host in REGISTRY_HOSTS if host in text] == []


def test_files__path_of_somebodys_machine__named_nowhere() -> None:
    assert [(name, match[0]) for name, text in texts().items() if (match := MACHINE_PATH.search(text))] == []


def test_files__unfinished_work__marked_nowhere() -> None:
    assert [name for name, text in texts().items() if name not in LOCKS and UNFINISHED.search(text)] == []


def test_files__size__under_two_megabytes() -> None:
    assert [path.name for path in tracked_files() if path.stat().st_size > 2_000_000] == []


def test_python_modules__docstring__says_what_the_module_is_for() -> None:
    without = [path for path in python_modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    packages = [path for path in without if path.name == "__init__.py" and not path.read_text().strip()]
    tests = [path for path in without if path.name.startswith("test_")]
    assert sorted(set(without) - set(packages) - set(tests)) == []


def test_shell_scripts__mode__executable() -> None:
    scripts = [path for path in tracked_files() if path.suffix in ("", ".sh") and path.read_bytes()[:2] == b"#!"]
    assert [path.name for path in scripts if not path.stat().st_mode & 0o111] == []


def test_requirements__every_package__one_version_with_hashes_and_no_address() -> None:
    lock = (REPOSITORY / "requirements.txt").read_text()
    blocks = re.split(
        r"^(?=[a-z0-9])", "\n".join(line for line in lock.splitlines() if not line.startswith("#")), flags=re.M
    )
    packages = [block for block in blocks if block.strip()]
    assert len(packages) > 100
    assert [
        block.split()[0] for block in packages if not REQUIREMENT.match(block) or "--hash=sha256:" not in block
    ] == []
    assert "://" not in lock
    assert "--find-links" not in lock


def test_requirements__ranges_of_pyproject__all_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    names = {re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower() for requirement in wanted}
    locked = {name for name, _ in REQUIREMENT.findall((REPOSITORY / "requirements.txt").read_text())}
    assert names - locked == set()


def test_package_json__every_version__exact() -> None:
    package = json.loads((REPOSITORY / "package.json").read_text())
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert [name for name, version in versions.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


def test_package_lock__every_package__integrity_and_no_address() -> None:
    lock = json.loads((REPOSITORY / "package-lock.json").read_text())
    root, packages = lock["packages"].pop(""), lock["packages"]
    package = json.loads((REPOSITORY / "package.json").read_text())
    assert (root["dependencies"], root["devDependencies"]) == (package["dependencies"], package["devDependencies"])
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if not entry["integrity"].startswith("sha512-")] == []


def test_ci__what_it_runs__is_make_test() -> None:
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
