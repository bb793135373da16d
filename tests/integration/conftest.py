"""Fixtures that need a real Anvil. One process and one deployment a session; every test uses accounts of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anvil import LocalChain

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import deploy
from chainfl.chain.keys import Signer


@pytest.fixture(scope="session")
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilProcess]:
    """A chain that mines each transaction at once, and whose clock stands still in between."""
    with AnvilProcess(tmp_path_factory.mktemp("anvil"), block_time_s=None) as process:
        yield process


@pytest.fixture(scope="session")
def chain(anvil: AnvilProcess) -> LocalChain:
    """The contracts on that chain."""
    client = ChainClient(anvil.rpc_url, expected_chain_id=anvil.chain_id, poll_interval_s=0.05)
    deployer = Signer.from_private_key(anvil.private_keys[0])
    return LocalChain(anvil, client, deploy(client, deployer, unbonding_s=60), deployer)
