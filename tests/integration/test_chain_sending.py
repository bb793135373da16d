"""Sending against a real Anvil: nonces, budgets, poverty, races, and a chain that goes away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from anvil import ETHER, LocalChain, expect_sent

from chainfl.agents.ports import DryRun, Sent, TimedOut, WouldRevert
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.contracts import Transaction
from chainfl.chain.deployment import TOKEN
from chainfl.chain.keys import Signer
from chainfl.chain.transactions import GasBudget, TransactionSender
from chainfl.chain.transport import LoopbackTransport, Web3Transport, transport_for
from chainfl.errors import (
    GasBudgetExhausted,
    InsufficientFunds,
    InsufficientTokens,
    NoContract,
    RpcRefused,
    RpcUnreachable,
    StakeTooLow,
    WrongChainId,
    WrongContractVersion,
)
from chainfl.types import Address, Wei

pytestmark = pytest.mark.integration

NOBODY = Address("0x000000000000000000000000000000000000dEaD")


def transfer_of(wei: int) -> Transaction:
    return Transaction("transfer", NOBODY, b"", wei)


def test_send__concurrently_from_one_process__takes_each_nonce_once(chain: LocalChain):
    operator = chain.operator(tokens=100)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: operator.transfer(NOBODY, Wei(n)), range(1, 13)))
    assert all(isinstance(result, Sent) for result in results)
    assert operator.token_balance() == 100 * TOKEN - sum(range(1, 13))
    assert int(chain.client.request("eth_getTransactionCount", [operator.account, "latest"]), 16) == 12


def test_send__from_two_processes_with_one_key__both_arrive(chain: LocalChain):
    signer = chain.signer()
    other = ChainClient(chain.client.rpc_url + "/", poll_interval_s=0.05)  # another URL: no shared queue of nonces
    senders = [TransactionSender(client, signer) for client in (chain.client, other)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda n: senders[n % 2].send(transfer_of(1)), range(8)))
    assert all(isinstance(result, Sent) for result in results)


def test_send__state_changed_before_inclusion__answers_with_the_reason_and_the_cost(chain: LocalChain):
    operator = chain.operator(stake=10)
    chain.anvil.rpc("evm_setAutomine", False)
    try:
        with ThreadPoolExecutor(2) as pool:
            sends = [pool.submit(operator.withdraw, Wei(8 * TOKEN)) for _ in range(2)]
            while int(chain.anvil.rpc("txpool_status")["pending"], 16) < 2:
                operator.latest_block()
            chain.anvil.rpc("evm_mine")
            results = [send.result() for send in sends]
    finally:
        chain.anvil.rpc("evm_setAutomine", True)
    (sent,) = (result for result in results if isinstance(result, Sent))
    (failed,) = (result for result in results if isinstance(result, WouldRevert))
    assert isinstance(failed.error, StakeTooLow)
    assert failed.error.evidence["tx_hash"] != sent.tx_hash
    assert failed.error.evidence["cost_wei"] > 0


def test_send__not_mined_in_time__answers_timed_out_and_the_next_nonce_follows(chain: LocalChain):
    operator = chain.operator(tokens=10)
    hasty = chain.open(operator.sender.signer, receipt_timeout_s=0.2)
    chain.anvil.rpc("evm_setAutomine", False)
    try:
        first, second = hasty.transfer(NOBODY, Wei(1)), hasty.transfer(NOBODY, Wei(2))
        chain.anvil.rpc("evm_mine")
    finally:
        chain.anvil.rpc("evm_setAutomine", True)
    assert isinstance(first, TimedOut)
    assert isinstance(second, TimedOut)
    assert operator.token_balance() == 10 * TOKEN - 3


def test_send__token_missing__answers_insufficient_tokens(chain: LocalChain):
    answer = chain.operator().transfer(NOBODY, Wei(1))
    assert isinstance(answer, WouldRevert)
    assert isinstance(answer.error, InsufficientTokens)


def test_send__without_native_currency__raises_insufficient_funds(chain: LocalChain):
    poor = chain.open(chain.signer(ether=0))
    with pytest.raises(InsufficientFunds) as caught:
        poor.drip()
    assert poor.account in caught.value.hint


def test_budget__too_small_for_the_worst_case__sends_nothing(chain: LocalChain):
    operator = chain.open(chain.signer(), budget=GasBudget(10**9))
    with pytest.raises(GasBudgetExhausted):
        operator.drip()
    assert operator.native_balance() == 10 * ETHER


def test_budget__spent__is_what_the_account_paid(chain: LocalChain):
    budget = GasBudget(ETHER)
    operator = chain.open(chain.signer(), budget=budget)
    sent = expect_sent(operator.drip())
    assert budget.remaining_wei == ETHER - sent.cost_wei == ETHER - (10 * ETHER - operator.native_balance())


def test_dry_run__any__sends_nothing(chain: LocalChain):
    operator = chain.operator()
    answer = operator.dry_run().drip()
    assert isinstance(answer, DryRun)
    assert answer.cost_wei > answer.gas_estimate > 21_000
    assert operator.native_balance() == 10 * ETHER


def test_check__wrong_chain_contract_or_version__each_has_its_error(chain: LocalChain):
    client, deployment = ChainClient(chain.client.rpc_url, expected_chain_id=5), chain.deployment
    with pytest.raises(WrongChainId):
        _ = client.chain_id
    version = chain.open(None).contract.abi.functions["version"]
    with pytest.raises(NoContract):
        chain.client.check_contract(NOBODY, "TaskCoordinator", version)
    with pytest.raises(WrongContractVersion):
        chain.client.check_contract(deployment.token, "TaskCoordinator", version)


def test_rpc__lost_half_way__raises_unreachable_and_a_restart_carries_on(tmp_path: Path):
    anvil = AnvilProcess(tmp_path, keep_state=True).start()
    signer = Signer.from_private_key(anvil.private_keys[0])
    client = ChainClient(anvil.rpc_url, sleep=lambda _: None)
    sender = TransactionSender(client, signer)
    try:
        assert isinstance(sender.send(transfer_of(5)), Sent)
        anvil.stop()
        with pytest.raises(RpcUnreachable) as caught:
            sender.send(transfer_of(6))
        assert caught.value.retryable
        with pytest.raises(RpcUnreachable):
            client.wait_for_block(10**6, 5)
        anvil.start()
        assert client.balance(NOBODY) == 5
        assert isinstance(sender.send(transfer_of(6)), Sent)
    finally:
        anvil.stop()


def test_transport__of_web3__serves_the_same_client(chain: LocalChain, tmp_path: Path):
    with AnvilProcess(tmp_path) as anvil:
        client = ChainClient(anvil.rpc_url, sleep=lambda _: None)
        client._transport = Web3Transport(anvil.rpc_url, 10)
        sender = TransactionSender(client, Signer.from_private_key(anvil.private_keys[0]))
        assert isinstance(sender.send(transfer_of(5)), Sent)
        assert client.batch([("eth_chainId", []), ("eth_getBalance", [NOBODY, "latest"])]) == ["0x7a69", "0x5"]
        with pytest.raises(RpcRefused):
            client.request("no_such_method")
    with pytest.raises(RpcUnreachable):
        client.block_number()


def test_transport__each_url__is_served_by_the_cheapest():
    assert isinstance(transport_for("http://127.0.0.1:8545", 1), LoopbackTransport)
    assert isinstance(transport_for("http://localhost:8545/path", 1), LoopbackTransport)
    for url in ("https://127.0.0.1:8545", "http://user:word@127.0.0.1:8545", "http://10.0.0.1:8545"):
        assert isinstance(transport_for(url, 1), Web3Transport)


def test_wait_for_block__new_block__returns_it_and_old_times_out(chain: LocalChain):
    before = chain.client.block()
    assert chain.client.wait_for_block(before.number, 0.1) == before
    chain.advance(1)
    assert chain.client.wait_for_block(before.number, 5).number == before.number + 1
