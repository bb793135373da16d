"""Sending, against an endpoint that refuses, loses answers and gives nonces away."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from chain_fakes import Clock, FakeTransport, fake_client
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from chainfl.agents.ports import MAX_AT_ONCE, DryRun, Sent, TimedOut, WouldRevert
from chainfl.chain.contracts import Transaction
from chainfl.chain.keys import Signer
from chainfl.chain.reverts import RpcError
from chainfl.chain.transactions import (
    GAS_PRICE_ORACLE,
    GAS_SLACK,
    MAX_TRANSACTION_GAS,
    GasBudget,
    NonceQueue,
    Prepared,
    TransactionSender,
    gas_limit_for,
    nonce_queue,
    offer_fees,
    predicted_address,
    receipt_cost_wei,
)
from chainfl.errors import (
    ChainError,
    GasBudgetExhausted,
    InsufficientFunds,
    KeyfileError,
    RpcRefused,
    RpcUnreachable,
    TransactionReverted,
)
from chainfl.types import Address

ALICE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
CALL = Transaction("settle", ALICE, b"\x01\x02")
GWEI = 10**9
REVERT = RpcError(3, "execution reverted", b"")


class Endpoint:
    """A node with one account; tests replace what it answers."""

    def __init__(self) -> None:
        self.signer = Signer(Account.create())
        self.raw: list[str] = []
        self.receipt: dict[str, str] | None = {
            "status": "0x1",
            "blockNumber": "0x7",
            "gasUsed": hex(50_000),
            "effectiveGasPrice": hex(2 * GWEI),
        }
        self.handlers: dict[str, Any] = {
            "eth_chainId": lambda: "0x1",
            "eth_call": lambda *_: "0x",
            "eth_getBlockByNumber": lambda *_: {"baseFeePerGas": hex(GWEI), "gasLimit": hex(30_000_000)},
            "eth_maxPriorityFeePerGas": lambda: hex(GWEI),
            "eth_getBalance": lambda *_: hex(10**18),
            "eth_estimateGas": lambda *_: hex(60_000),
            "eth_getTransactionCount": lambda *_: hex(len(self.raw)),
            "eth_sendRawTransaction": self._take,
            "eth_getTransactionReceipt": lambda *_: self.receipt,
            "eth_getTransactionByHash": lambda *_: None,
        }

    def _take(self, raw: str) -> str:
        self.raw.append(raw)
        return "0x" + keccak(hexstr=raw).hex()

    def sender(self, **options: Any) -> tuple[TransactionSender, FakeTransport, Clock]:
        client, provider, clock = fake_client(self.handlers)
        return TransactionSender(client, self.signer, **options), provider, clock


def test_send__accepted__tells_gas_and_cost():
    endpoint = Endpoint()
    sender, provider, clock = endpoint.sender()
    result = sender.send(CALL)
    assert isinstance(result, Sent)
    assert (result.block_number, result.gas_used, result.cost_wei) == (7, 50_000, 100_000 * GWEI)
    assert Account.recover_transaction(endpoint.raw[0]) == endpoint.signer.address
    assert result.tx_hash == "0x" + keccak(hexstr=endpoint.raw[0]).hex()
    assert provider.asked.index("eth_estimateGas") > provider.asked.index("eth_call")
    assert clock.slept == []


def test_send_all__many__are_all_broadcast_before_any_receipt_is_asked_for():
    endpoint = Endpoint()
    sender, provider, _ = endpoint.sender()
    results = sender.send_all([CALL] * 5)
    assert all(isinstance(result, Sent) for result in results)
    assert len(results) == len(endpoint.raw) == 5
    first_receipt = provider.asked.index("eth_getTransactionReceipt")
    assert "eth_sendRawTransaction" not in provider.asked[first_receipt:]
    assert sender.send_all([]) == ()


def test_send_all__one_would_revert__the_others_are_sent_and_the_order_is_kept():
    endpoint = Endpoint()
    answers = iter(["0x", REVERT, "0x"])
    endpoint.handlers["eth_call"] = lambda *_: next(answers)
    sender, _, _ = endpoint.sender()
    assert [type(result) for result in sender.send_all([CALL] * 3)] == [Sent, WouldRevert, Sent]
    assert len(endpoint.raw) == 2


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, MAX_AT_ONCE),
        ({"eth_getBlockByNumber": lambda *_: {"baseFeePerGas": hex(GWEI), "gasLimit": hex(600_000)}}, 3),
        ({"eth_getBalance": lambda *_: hex(2 * 175_000 * 3 * GWEI)}, 2),
    ],
)
def test_send_all__more_than_fit__the_first_ones_are_sent(limits, expected):
    endpoint = Endpoint()
    endpoint.handlers |= limits
    sender, _, _ = endpoint.sender()
    assert len(sender.send_all([CALL] * 40)) == len(endpoint.raw) == expected


def test_send_all__budget_for_two__two_are_sent_and_the_third_is_raised_when_it_comes_first():
    endpoint = Endpoint()
    budget = GasBudget(2 * 175_000 * 3 * GWEI)
    sender, _, _ = endpoint.sender(budget=budget)
    assert len(sender.send_all([CALL] * 4)) == 2
    assert budget.remaining_wei == 2 * 175_000 * 3 * GWEI - 2 * 100_000 * GWEI
    budget.reserve(budget.remaining_wei)
    with pytest.raises(GasBudgetExhausted):
        sender.send_all([CALL] * 2)


@pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
def test_send__state_rejects_it__signs_nothing(method: str):
    endpoint = Endpoint()
    endpoint.handlers[method] = lambda *_: REVERT
    sender, _, _ = endpoint.sender()
    result = sender.send(CALL)
    assert isinstance(result, WouldRevert)
    assert endpoint.raw == []


def test_send__mined_in_vain__tells_reason_and_cost():
    endpoint = Endpoint()
    assert endpoint.receipt is not None
    endpoint.receipt["status"] = "0x0"
    answers = iter(["0x", REVERT])
    endpoint.handlers["eth_call"] = lambda *_: next(answers)
    budget = GasBudget(10**18)
    sender, _, _ = endpoint.sender(budget=budget)
    result = sender.send(CALL)
    assert isinstance(result, WouldRevert)
    assert isinstance(result.error, TransactionReverted)
    assert result.error.evidence["cost_wei"] == 100_000 * GWEI == 10**18 - budget.remaining_wei


def test_send__out_of_gas__says_so():
    endpoint = Endpoint()
    assert endpoint.receipt is not None
    endpoint.receipt |= {"status": "0x0", "gasUsed": hex(10**7)}
    sender, _, _ = endpoint.sender()
    result = sender.send(CALL)
    assert isinstance(result, WouldRevert)
    assert "ran out of gas" in str(result.error)


def test_send__no_receipt__answers_timed_out_and_keeps_its_budget():
    endpoint = Endpoint()
    endpoint.receipt = None
    budget = GasBudget(10**18)
    sender, _, clock = endpoint.sender(budget=budget, receipt_timeout_s=30)
    result = sender.send(CALL)
    assert isinstance(result, TimedOut)
    assert 30 <= clock.now < 32
    assert max(clock.slept) == 1.0
    assert budget.remaining_wei < 10**18


def test_send__receipt_comes_later__waits_with_growing_steps():
    endpoint = Endpoint()
    receipts = iter([None, None, None, endpoint.receipt])
    endpoint.handlers["eth_getTransactionReceipt"] = lambda _: next(receipts)
    sender, _, clock = endpoint.sender()
    assert isinstance(sender.send(CALL), Sent)
    assert clock.slept == [0.05, 0.1, 0.2]


def test_send__poor_account__raises_before_signing():
    endpoint = Endpoint()
    endpoint.handlers["eth_getBalance"] = lambda *_: hex(1_000)
    sender, _, _ = endpoint.sender()
    with pytest.raises(InsufficientFunds) as caught:
        sender.send(CALL)
    assert endpoint.signer.address in caught.value.hint
    assert endpoint.raw == []


def test_send__budget_below_the_worst_case__raises_before_signing():
    endpoint = Endpoint()
    sender, _, _ = endpoint.sender(budget=GasBudget(60_000 * 3 * GWEI))
    with pytest.raises(GasBudgetExhausted) as caught:
        sender.send(CALL)
    assert caught.value.exit_code == 28
    assert endpoint.raw == []


def test_send__nonce_taken_by_another_process__uses_the_next():
    endpoint = Endpoint()
    counts, answers = iter(["0x4", "0x5"]), iter([RpcError(-32000, "nonce too low", None), "0x00"])
    endpoint.handlers["eth_getTransactionCount"] = lambda *_: next(counts)
    endpoint.handlers["eth_sendRawTransaction"] = lambda raw: endpoint.raw.append(raw) or next(answers)
    sender, _, _ = endpoint.sender()
    assert isinstance(sender.send(CALL), Sent)
    assert len(endpoint.raw) == 2


def test_send__nonce_always_taken__gives_up():
    endpoint = Endpoint()
    endpoint.handlers["eth_sendRawTransaction"] = lambda _: RpcError(-32000, "nonce too low", None)
    sender, _, _ = endpoint.sender(budget=(budget := GasBudget(10**18)))
    with pytest.raises(RpcRefused):
        sender.send(CALL)
    assert budget.remaining_wei == 10**18


def test_send__answer_lost__repeats_the_same_bytes_and_finds_itself():
    endpoint = Endpoint()
    endpoint.handlers["eth_getTransactionByHash"] = lambda _: {"hash": "0x00"}
    lost = [True]

    def take(raw: str) -> Any:
        endpoint.raw.append(raw)
        if lost.pop() if lost else False:
            raise requests.ConnectionError
        return RpcError(-32000, "nonce too low", None)

    endpoint.handlers["eth_sendRawTransaction"] = take
    sender, _, _ = endpoint.sender()
    assert isinstance(sender.send(CALL), Sent)
    assert endpoint.raw[0] == endpoint.raw[1]


@pytest.mark.parametrize("method", ["eth_sendRawTransaction", "eth_getTransactionReceipt"])
def test_send__endpoint_lost_after_signing__names_the_transaction(method: str):
    def lose(*_: Any) -> Any:
        raise requests.ConnectionError

    endpoint = Endpoint()
    endpoint.handlers[method] = lose
    sender, _, _ = endpoint.sender()
    with pytest.raises(RpcUnreachable) as caught:
        sender.send(CALL)
    assert caught.value.evidence["tx_hash"].startswith("0x")


def test_dry_run__any__prices_and_sends_nothing():
    endpoint = Endpoint()
    sender, _, _ = endpoint.sender()
    assert sender.as_dry_run().send(CALL) == DryRun(60_000, 60_000 * 3 * GWEI)
    assert endpoint.raw == []


def test_sender__without_a_key__reads_and_dry_runs_only():
    endpoint = Endpoint()
    client, _, _ = fake_client(endpoint.handlers)
    with pytest.raises(KeyfileError):
        _ = TransactionSender(client, None).account
    watcher = TransactionSender(client, None, account=ALICE)
    assert isinstance(watcher.as_dry_run().send(CALL), DryRun)
    with pytest.raises(KeyfileError):
        watcher.send(CALL)


def test_fees__tip_not_known__is_one_gwei():
    fees = offer_fees({"baseFeePerGas": "0xa"}, RpcError(-32601, "no such method", None))
    assert (fees.max_fee_wei, fees.priority_fee_wei) == (20 + GWEI, GWEI)
    with pytest.raises(ChainError, match="EIP-1559"):
        offer_fees({}, "0x1")


def test_gas_limit__any_estimate__has_slack_within_the_limits():
    assert gas_limit_for(60_000, 30_000_000) == 75_000 + GAS_SLACK
    assert gas_limit_for(16_000_000, 30_000_000) == MAX_TRANSACTION_GAS
    assert gas_limit_for(9_990_000, 10_000_000) == 10_000_000
    assert gas_limit_for(20_000_000, 30_000_000) == 20_000_000


def test_cost__on_an_op_stack_chain__includes_l1():
    receipt = {"gasUsed": "0x2", "effectiveGasPrice": "0x3"}
    assert receipt_cost_wei(receipt) == 6
    assert receipt_cost_wei({**receipt, "l1Fee": "0x64"}) == 106


def test_budget__on_an_op_stack_chain__covers_the_data_on_l1():
    endpoint = Endpoint()
    l1_fee = 7 * GWEI
    endpoint.handlers["eth_call"] = lambda message, _: (
        "0x" + l1_fee.to_bytes(32, "big").hex() if message["to"] == GAS_PRICE_ORACLE else "0x"
    )
    sender, _, _ = endpoint.sender(op_stack=True)
    assert sender.as_dry_run().send(CALL) == DryRun(60_000, 60_000 * 3 * GWEI + l1_fee)
    prepared = sender.prepare(CALL)
    assert isinstance(prepared, Prepared)
    assert prepared.worst_case_wei == prepared.gas_limit * 3 * GWEI + l1_fee
    endpoint.handlers["eth_call"] = lambda *_: "0x"
    assert sender.as_dry_run().send(CALL) == DryRun(60_000, 60_000 * 3 * GWEI)


def test_predicted_address__known_pair__matches_the_chain():
    deployer = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
    assert predicted_address(deployer, 0) == "0x5FbDB2315678afecb367f032d93F642f64180aa3"


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=30), st.integers(0, 500))
def test_budget__any_sequence__never_spends_more_than_its_maximum(costs: list[tuple[int, int]], maximum: int):
    budget, spent = GasBudget(maximum), 0
    for worst, share in costs:
        try:
            budget.reserve(worst)
        except GasBudgetExhausted:
            continue
        actual = worst * share // 100
        budget.settle(worst, actual)
        spent += actual
    assert spent <= maximum
    assert budget.remaining_wei == maximum - spent


def test_budget__many_threads__never_exceeds_its_maximum():
    budget, granted = GasBudget(50), []

    def take() -> None:
        for _ in range(20):
            try:
                budget.reserve(1)
            except GasBudgetExhausted:
                return
            granted.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 50


def test_nonce_queue__in_flight__is_ahead_of_a_lagging_node():
    queue = NonceQueue()
    queue.sent(5)
    assert queue.next(5) == 6
    assert queue.next(9) == 9
    queue.done(5)
    assert queue.next(5) == 5
    assert nonce_queue("u", ALICE) is nonce_queue("u", ALICE)
    assert nonce_queue("u", ALICE) is not nonce_queue("v", ALICE)
