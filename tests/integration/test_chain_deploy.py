"""Deploying to a chain that is not ours: a block time, another chain id, an ordinary funded key."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from anvil import ETHER, LocalChain, expect_sent

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.deployment import Deployment, TokenParams, check_deployment, deploy
from chainfl.chain.keys import Signer
from chainfl.chain.operator import Operator
from chainfl.chain.transactions import TransactionSender
from chainfl.errors import ChainflError, DeploymentInvalid, InsufficientFunds, NoContract, UsageError, WrongChainId
from chainfl.types import Address, Wei

pytestmark = pytest.mark.integration

FOREIGN_CHAIN_ID = 11_155_111


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilProcess]:
    """A chain with a testnet's id and a block every second, whoever sends."""
    folder = tmp_path_factory.mktemp("foreign")
    with AnvilProcess(folder, block_time_s=1, mixed_mining=False, chain_id=FOREIGN_CHAIN_ID) as anvil:
        yield anvil


@pytest.fixture
def client(foreign: AnvilProcess) -> ChainClient:
    return ChainClient(foreign.rpc_url, expected_chain_id=FOREIGN_CHAIN_ID, poll_interval_s=0.5)


@pytest.fixture
def signer(foreign: AnvilProcess) -> Signer:
    """A key that Anvil knows nothing of, with one ether."""
    key = Signer.from_private_key("0x" + secrets.token_hex(32))
    foreign.fund(key.address, ETHER)
    return key


def test_deploy__foreign_chain_with_block_time__is_wired_recorded_and_usable(
    client: ChainClient, signer: Signer, tmp_path: Path
):
    path = tmp_path / "sepolia.json"
    told: list[str] = []
    deployment = deploy(
        client, signer, unbonding_s=604_800, path=path, commit="abc", progress=lambda name, _: told.append(name)
    )
    assert Deployment.load(path) == deployment
    assert told[-3:] == ["StakeVault", "TaskCoordinator", "ModelRegistry"]
    assert not path.with_name("sepolia.json.partial").exists()
    operator = Operator(client, Deployment.load(path), signer)
    operator.check()
    expect_sent(operator.deposit(Wei(10**18)))
    assert operator.stake_status().free == 10**18
    with pytest.raises(UsageError):
        deploy(client, signer, unbonding_s=60, path=path)


def test_deploy__cut_off__carries_on_with_the_same_addresses(chain: LocalChain, tmp_path: Path):
    path, signer = tmp_path / "d.json", chain.signer()

    class PowerCut(Exception):
        pass

    def cut(name: str, _: Address) -> None:
        if name == "StakeVault":
            raise PowerCut

    with pytest.raises(PowerCut):
        deploy(chain.client, signer, unbonding_s=60, path=path, progress=cut)
    assert not path.exists()
    nonce = chain.client.request("eth_getTransactionCount", [signer.address, "latest"])
    deployment = deploy(chain.client, signer, unbonding_s=60, path=path)
    check_deployment(chain.client, deployment)
    sent_after = int(chain.client.request("eth_getTransactionCount", [signer.address, "latest"]), 16) - int(nonce, 16)
    assert sent_after == 2


def test_deploy__another_transaction_in_between__fails_cleanly_and_works_again(chain: LocalChain, tmp_path: Path):
    path, signer = tmp_path / "d.json", chain.signer()

    def interfere(name: str, _: Address) -> None:
        if name == "StakeVault":
            expect_sent(TransactionSender(chain.client, signer).send(Transaction("transfer", signer.address, b"", 1)))

    with pytest.raises(DeploymentInvalid, match="another transaction"):
        deploy(chain.client, signer, unbonding_s=60, path=path, progress=interfere)
    assert list(tmp_path.iterdir()) == []
    check_deployment(chain.client, deploy(chain.client, signer, unbonding_s=60, path=path))


def test_deploy__existing_token__is_used_and_recorded(chain: LocalChain, tmp_path: Path):
    path = tmp_path / "d.json"
    deployment = deploy(chain.client, chain.signer(), unbonding_s=5, token=chain.deployment.token, path=path)
    assert deployment.token == chain.deployment.token
    assert Deployment.load(path).token_params is None


def test_deploy__token_parameters__reach_the_constructor(chain: LocalChain):
    signer = chain.signer()
    deployment = deploy(chain.client, signer, unbonding_s=5, token=TokenParams(1_000, 500, 50, 3))
    operator = Operator(chain.client, deployment, signer)
    assert (operator.token_balance(), operator.drip_amount()) == (1_000, 50)


def test_deploy__without_funds__says_so(chain: LocalChain):
    with pytest.raises(InsufficientFunds):
        deploy(chain.client, chain.signer(ether=0), unbonding_s=60)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"chain_id": 1}, WrongChainId),
        ({"vault": "0x000000000000000000000000000000000000dEaD"}, NoContract),
        ({"token": "0x000000000000000000000000000000000000dEaD"}, NoContract),
        ({"unbonding_s": 61}, DeploymentInvalid),
    ],
)
def test_check__file_and_chain_differ__names_it(
    chain: LocalChain, change: dict[str, object], error: type[ChainflError]
):
    with pytest.raises(error):
        check_deployment(chain.client, replace(chain.deployment, **change))  # type: ignore[arg-type]
