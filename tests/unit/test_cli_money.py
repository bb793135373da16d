"""Tokens in and out of the vault."""

from __future__ import annotations

import json

import pytest
from cli_fakes import NOW, Shell, shell_with_chain

from chainfl.chain.records import Lock
from chainfl.errors import InsufficientAllowance
from chainfl.tasks.spec import TOKEN
from chainfl.tasks.state import Role
from chainfl.types import TaskId, Wei


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def lock(tokens: int, unlockable_at: int | None, task: int = 1) -> Lock:
    return Lock(TaskId(task), Role.WORKER, Wei(tokens * TOKEN), unlockable_at)


def test_deposit__enough_tokens__moves_exactly_that(shell):
    shell.use(wallet=150 * TOKEN)
    assert shell("stake", "deposit", "100.5", "--yes") == 0
    assert shell.operator.sent == [f"deposit {1005 * TOKEN // 10}"]
    assert "free stake: 0 CFL → 100.5 CFL (+100.5 CFL)" in shell.err


def test_deposit__too_few_tokens__is_told_before_anything_is_sent(shell):
    shell.use(wallet=99 * TOKEN)
    assert shell("stake", "deposit", "100", "--yes") == 26
    assert "faucet" in shell.err
    assert shell.operator.sent == []


def test_deposit__no_allowance__has_its_own_exit_code(shell):
    shell.use(wallet=TOKEN, refusal=InsufficientAllowance("no"))
    assert shell("stake", "deposit", "1", "--yes") == 27


@pytest.mark.parametrize("amount", ["0", "abc", "0,5"])
def test_deposit__no_amount__is_refused(shell, amount):
    assert shell("stake", "deposit", amount, "--yes") == 11


def test_withdraw__all__unlocks_what_has_matured_first(shell):
    shell.use(free=TOKEN, locks=(lock(5, NOW), lock(7, NOW + 1, 2), lock(9, None, 3)))
    assert shell("stake", "withdraw", "--all", "--yes") == 0
    assert shell.operator.sent == ["unlock 1", f"withdraw {6 * TOKEN}"]


def test_withdraw__more_than_is_free__says_what_is(shell):
    shell.use(free=TOKEN, locks=(lock(5, NOW + 1),))
    assert shell("stake", "withdraw", "2", "--yes") == 32
    assert "1 CFL can be withdrawn, not 2 CFL" in shell.err
    assert "Top up" not in shell.err


@pytest.mark.parametrize("arguments", [[], ["1", "--all"]])
def test_withdraw__amount_and_all__exclude_each_other(shell, arguments):
    assert shell("stake", "withdraw", *arguments) == 11


def test_withdraw__nothing_there__is_told(shell):
    assert shell("stake", "withdraw", "--all", "--yes") == 11


@pytest.mark.parametrize(
    ("unlockable_at", "told"),
    [(None, "after the task"), (NOW + 3_600, "in 1 h (unbonding)"), (NOW + 1, "in 1 s (unbonding)"), (NOW, "now:")],
)
def test_status__a_lock__has_its_countdown(shell, unlockable_at, told):
    shell.use(locks=(lock(5, unlockable_at),))
    assert shell("stake", "status") == 0
    assert told in shell.out


def test_status__json__is_exact(shell):
    shell.use(free=10**30 + 1, credit=1)
    assert shell("stake", "status", "--json") == 0
    found = json.loads(shell.out)
    assert found["stake"]["free"] == 10**30 + 1
    assert found["chain_time"] == NOW


def test_status__something_earned__suggests_claiming(shell):
    shell.use(credit=1)
    shell("stake", "status")
    assert "rewards claim" in shell.err


def test_status__mistyped_address__is_refused(shell):
    assert shell("stake", "status", "--account", "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2a") == 2
    assert "checksum" in shell.err


def test_claim__something_earned__moves_it(shell):
    shell.use(credit=3 * TOKEN)
    assert shell("rewards", "claim", "--yes", "--json") == 0
    assert json.loads(shell.out)["amount_wei"] == 3 * TOKEN
    assert shell.operator.sent == ["claim"]


def test_claim__nothing_earned__is_told(shell):
    assert shell("rewards", "claim", "--yes") == 34


def test_faucet__ready__draws(shell):
    assert shell("faucet", "--yes") == 0
    assert shell.operator.sent == ["drip"]


@pytest.mark.parametrize(("ready_at", "code"), [(NOW - 1, 0), (NOW, 0), (NOW + 1, 34)])
def test_faucet__around_its_time__waits_to_the_second(shell, ready_at, code):
    shell.use(next_drip=ready_at)
    assert shell("faucet", "--dry-run") == code


def test_spending__without_terminal_and_yes__is_refused(shell):
    shell.use(wallet=TOKEN)
    assert shell("stake", "deposit", "1") == 11
    assert shell.operator.sent == []
