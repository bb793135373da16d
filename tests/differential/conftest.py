"""One Anvil for all differential tests of a run, that Solidity libraries are lent to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque

import pytest
from harness import PROOFS_ADDRESS, ROOT, compile_contracts


@pytest.fixture(scope="session")
def anvil():
    command = [ROOT / "node_modules" / ".bin" / "anvil", "--port", "0", "--gas-limit", str(2**31)]
    # npm's anvil is a launcher with a child of its own: a group of theirs, so that both end.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stdout:
            if found := re.search(r"Listening on (\S+)", line):
                break
        else:
            pytest.fail("anvil ended before it listened")
        # Anvil logs every call: read on, or it stops at a full pipe.
        threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        yield f"http://{found[1]}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="session")
def harnesses():
    """Runtime code by name: the harnesses of Harnesses.sol, and `Proofs`, which one of them links."""
    linked = {"contracts/src/libraries/Proofs.sol": {"Proofs": PROOFS_ADDRESS}}
    names = ["RulesHarness", "OpeningsHarness", "ProofsHarness", "FaultsHarness"]
    return compile_contracts("tests/differential/Harnesses.sol", names, linked)
