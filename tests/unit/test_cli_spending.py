"""Nothing is sent before it was shown and agreed to."""

from __future__ import annotations

import json

import pytest
from cli_fakes import FakeOperator, Shell, shell_with_chain

from chainfl.agents.ports import TimedOut
from chainfl.cli.spending import Change, Consent, Spending, Step, agree, report_sent, settled, spend
from chainfl.errors import Interrupted, RpcUnreachable, StakeTooLow, TransactionTimedOut, UsageError

SPENDING = Spending("Move 5", [Step("claiming", lambda port: port.claim())], [Change("wallet", 10, 15)])


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def test_spend__yes__sends_and_shows_amount_gas_and_balance(capsys):
    operator = FakeOperator()
    assert len(spend(operator, SPENDING, Consent(yes=True), str)) == 1
    told = capsys.readouterr().err
    assert operator.sent == ["claim"]
    assert "wallet: 10 → 15 (+5)" in told
    assert "gas: 100,000, at most 0.001 ETH" in told
    assert "1 ETH → 0.999 ETH" in told


def test_spend__dry_run__sends_nothing(capsys):
    operator = FakeOperator()
    assert spend(operator, SPENDING, Consent(dry_run=True, yes=True), str) == []
    assert operator.sent == []
    assert "nothing was sent" in capsys.readouterr().out


def test_spend__dry_run_as_json__is_one_document(capsys):
    spend(FakeOperator(), SPENDING, Consent(dry_run=True, json=True), str)
    found = json.loads(capsys.readouterr().out)
    assert found["dry_run"] is True
    assert found["balances"] == [{"name": "wallet", "before": 10, "after": 15}]
    assert found["gas"]["gas"] == 100_000


def test_spend__no_terminal_and_no_yes__is_refused_and_sends_nothing():
    operator = FakeOperator()
    with pytest.raises(UsageError, match="--yes"):
        spend(operator, SPENDING, Consent(), str)
    assert operator.sent == []


def test_spend__answer_is_no__sends_nothing(shell):
    shell.at_terminal(answers=False)
    with pytest.raises(Interrupted, match="nothing was sent"):
        spend(shell.operator, SPENDING, Consent(), str)
    assert shell.operator.sent == []


def test_spend__answer_is_yes__sends(shell):
    shell.at_terminal(answers=True)
    assert spend(shell.operator, SPENDING, Consent(), str)


def test_spend__a_step_would_revert__is_told_before_anything_is_sent():
    operator = FakeOperator(refusal=StakeTooLow("no"))
    with pytest.raises(StakeTooLow):
        spend(operator, SPENDING, Consent(yes=True), str)
    assert operator.sent == []


def test_spend__a_step_that_needs_the_others__is_not_simulated_first(capsys):
    seen: list[bool] = []

    def later(port: FakeOperator):
        seen.append(port.is_dry)
        return port.claim()

    operator = FakeOperator()
    steps = [Step("first", lambda port: port.drip()), Step("second", later, after_others=True)]
    spend(operator, Spending("Two", steps), Consent(yes=True), str)
    assert seen == [False]
    assert operator.sent == ["drip", "claim"]
    assert "1 transaction that can only be estimated later" in capsys.readouterr().err


def test_spend__preparation__comes_after_the_agreement_and_before_sending():
    order: list[str] = []
    operator = FakeOperator()
    spending = Spending("x", SPENDING.steps, prepare=lambda: order.append(f"prepared {operator.sent}"))
    with pytest.raises(UsageError):
        spend(operator, spending, Consent(), str)
    assert order == []
    spend(operator, spending, Consent(yes=True), str)
    assert order == ["prepared []"]


def test_spend__endpoint_lost_half_way__keeps_the_transaction_in_the_error():
    def lose(port: FakeOperator):
        if port.is_dry:
            return port.claim()
        raise RpcUnreachable("no answer", tx_hash="0xabc")

    with pytest.raises(RpcUnreachable) as caught:
        spend(FakeOperator(), Spending("x", [Step("losing", lose)]), Consent(yes=True), str)
    assert caught.value.evidence == {"tx_hash": "0xabc", "step": "losing"}


def test_settled__no_receipt_in_time__names_the_transaction():
    with pytest.raises(TransactionTimedOut) as caught:
        settled(TimedOut("0xabc"))
    assert "0xabc" in caught.value.hint


def test_agree__yes__asks_nobody():
    agree(Consent(yes=True))


def test_report__as_json__has_facts_and_transactions(capsys):
    sent = spend(FakeOperator(), SPENDING, Consent(yes=True), str)
    report_sent(sent, Consent(json=True), "done", amount_wei=5)
    found = json.loads(capsys.readouterr().out)
    assert found["amount_wei"] == 5
    assert found["transactions"][0]["gas_used"] == 90_000
