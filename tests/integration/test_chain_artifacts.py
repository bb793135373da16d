"""The artifacts in the package are what the sources compile to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def test_artifacts__rebuilt__are_the_committed_ones():
    command = [sys.executable, str(ROOT / "scripts" / "build_contracts.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_artifacts__shipped__name_no_folder_of_a_machine():
    for path in sorted((ROOT / "chainfl" / "chain" / "artifacts").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert "contracts/src" not in text
