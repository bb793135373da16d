"""Starting, keeping and stopping a local chain."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from anvil import LocalChain, expect_sent

from chainfl.chain.anvil import AnvilProcess, find_anvil
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import TOKEN, deploy
from chainfl.chain.keys import Signer
from chainfl.errors import LocalChainError, PrerequisiteMissing
from chainfl.types import Wei

pytestmark = pytest.mark.integration


def test_two_chains__started_together__have_ports_of_their_own(tmp_path: Path):
    with AnvilProcess(tmp_path / "a") as first, AnvilProcess(tmp_path / "b", chain_id=4_242) as second:
        assert first.port != second.port
        assert ChainClient(first.rpc_url).chain_id == 31_337
        assert ChainClient(second.rpc_url).chain_id == 4_242


def test_clock__nobody_sends__moves_with_the_block_time(tmp_path: Path):
    with AnvilProcess(tmp_path, block_time_s=1) as anvil:
        client = ChainClient(anvil.rpc_url, poll_interval_s=0.1)
        first = client.block()
        assert client.wait_for_block(first.number + 1, 10).timestamp > first.timestamp


def test_state__stopped_and_started__keeps_balances_and_events(tmp_path: Path):
    anvil = AnvilProcess(tmp_path, keep_state=True)
    with anvil:
        client = ChainClient(anvil.rpc_url, poll_interval_s=0.1)
        signer = Signer.from_private_key(anvil.private_keys[0])
        chain = LocalChain(anvil, client, deploy(client, signer, unbonding_s=60), signer)
        expect_sent(chain.open(signer).deposit(Wei(7 * TOKEN)))
    with AnvilProcess(tmp_path, keep_state=True) as again:
        reader = LocalChain(again, ChainClient(again.rpc_url), chain.deployment, signer).open(signer)
        reader.check()
        assert reader.stake_status().free == 7 * TOKEN
        assert "depositWithPermit" in reader.gas_by_kind()
        expect_sent(reader.deposit(Wei(TOKEN)))


def test_stop__twice__leaves_no_process(tmp_path: Path):
    anvil = AnvilProcess(tmp_path).start()
    pid = anvil.pid
    assert pid is not None
    anvil.stop()
    anvil.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_killed__from_outside__says_where_the_log_is(tmp_path: Path):
    anvil = AnvilProcess(tmp_path).start()
    assert anvil.pid is not None
    os.kill(anvil.pid, signal.SIGKILL)
    os.waitpid(anvil.pid, 0)
    with pytest.raises(LocalChainError) as caught:
        anvil.rpc("eth_chainId")
    assert str(anvil.log_path) in caught.value.hint
    anvil.stop()


def test_start__wrong_argument__shows_its_last_words(tmp_path: Path):
    with pytest.raises(LocalChainError):
        AnvilProcess(tmp_path, extra_arguments=("--no-such-flag",)).start()


def test_find_anvil__nowhere__names_the_prerequisite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteMissing):
        find_anvil(tmp_path)
