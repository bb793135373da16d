"""Where the samples of MNIST and CIFAR-10 are, for tests that read real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of a data set. Without it the test is skipped, but on CI it fails: there nothing may be left out."""
    folder = Path(os.environ.get("CHAINFL_TEST_DATA", _BESIDE_THE_REPOSITORY)) / name
    if folder.is_dir():
        return folder
    reason = f"no {folder}: set CHAINFL_TEST_DATA to a folder with {name}'s files"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
