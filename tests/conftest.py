"""What all tests share: shared paths, no network in unit tests, and no silent skip where CI runs them."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

# Before numpy or torch is imported, here or in a process that a test starts: threads that fight for two cores are
# slower than one, and a sum in another order has other bits.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"
# Folders whose tests need what a machine may lack: Anvil, forge, Kubo. CI has them all.
NEEDS_TOOLS = {"differential": "integration", "integration": "integration", "e2e": "e2e"}

# On CI the same examples every time; elsewhere other ones each time, and a failure is kept for the next run.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
on_ci = os.environ.get("CI") == "true"
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if on_ci else "dev"))


def folder_of(path: Path) -> str:
    """The folder under tests/ that a test file lies in, such as `unit`."""
    return path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test by its folder: those under unit/ may open no socket."""
    for item in items:
        folder = folder_of(item.path)
        if folder == "unit":
            item.add_marker(pytest.mark.disable_socket)
        elif folder in NEEDS_TOOLS:
            item.add_marker(NEEDS_TOOLS[folder])


def _fail_instead_of_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    expected = hasattr(report, "wasxfail")
    if not on_ci or not report.skipped or expected or folder_of(path) not in NEEDS_TOOLS:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"CI skips nothing here, but this test did. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI a test that skips for want of a tool has failed: nobody would notice that it never ran."""
    report = yield
    _fail_instead_of_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips as a whole."""
    report = yield
    _fail_instead_of_skip(report, getattr(collector, "path", REPOSITORY))
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of the vectors that Solidity and Python both compute: tests/vectors."""
    return TESTS / "vectors"
