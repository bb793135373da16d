"""The committed vectors are those that the script makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_vectors__script_in_check_mode__none_is_stale():
    command = [sys.executable, ROOT / "scripts" / "make_vectors.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
