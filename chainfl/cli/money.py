"""`chainfl faucet`, `stake` and `rewards`: what an account has, and how it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import account_option, json_option
from chainfl.cli.output import Money, duration, ether, say, show, show_facts, show_json, show_table
from chainfl.cli.spending import Change, Consent, Spending, Step, report_sent, spend, spending_options
from chainfl.errors import AlreadyDone, InsufficientTokens, StakeTooLow, UsageError
from chainfl.types import Address, Wei

if TYPE_CHECKING:
    from chainfl.agents.ports import Sent
    from chainfl.chain.operator import Operator
    from chainfl.chain.records import Lock, StakeStatus


@click.command(epilog="Example: chainfl faucet --yes")
@spending_options
@pass_app
def faucet(app: App, consent: Consent) -> None:
    """Draw training tokens on a test network: a fixed amount, once a day and account."""
    operator = app.operator
    amount, ready_at, now = operator.drip_amount(), operator.next_drip_at(), operator.latest_block().timestamp
    if ready_at > now:
        raise AlreadyDone(f"the faucet gives {operator.account} more in {duration(ready_at - now)}", ready_at=ready_at)
    balance = operator.token_balance()
    spending = Spending(
        f"Draw {app.money.show(amount)} from the faucet",
        [Step("drawing", lambda port: port.drip())],
        [Change("wallet", balance, balance + amount)],
    )
    sent = spend(operator, spending, consent, app.money.show)
    report_sent(sent, consent, f"{app.money.show(amount)} drawn", amount_wei=amount, account=operator.account)


# --- stake ---------------------------------------------------------------------------------------


@click.group()
def stake() -> None:
    """Deposit, withdraw and look at stake.

    Free stake is yours to withdraw. What a task locks is free again after the task and the time of unbonding, and can
    be slashed until then.
    """


@stake.command(epilog="Example: chainfl stake deposit 100")
@click.argument("amount")
@spending_options
@pass_app
def deposit(app: App, amount: str, consent: Consent) -> None:
    """Move AMOUNT tokens from the wallet into free stake."""
    wei = Wei(app.money.parse(amount))
    sent = deposit_stake(app, app.operator, wei, consent)
    report_sent(sent, consent, f"{app.money.show(wei)} deposited", amount_wei=wei, account=app.operator.account)


@stake.command(epilog="Example: chainfl stake withdraw --all")
@click.argument("amount", required=False)
@click.option("--all", "everything", is_flag=True, help="All that is free, and all that has come free.")
@spending_options
@pass_app
def withdraw(app: App, amount: str | None, everything: bool, consent: Consent) -> None:
    """Move AMOUNT tokens of free stake to the wallet. Stake whose unbonding is over is unlocked first."""
    if (amount is None) != everything:
        raise UsageError("say how much to withdraw: an amount, or --all")
    operator = app.operator
    status = operator.stake_status()
    matured = matured_locks(status, operator.latest_block().timestamp)
    available = status.free + sum(lock.amount for lock in matured)
    wei = Wei(available if amount is None else app.money.parse(amount))
    _require_withdrawable(app, status, wei, available)
    spending = _withdrawal(app, status, matured, wei)
    sent = spend(operator, spending, consent, app.money.show)
    report_sent(sent, consent, f"{app.money.show(wei)} withdrawn", amount_wei=wei, account=operator.account)


@stake.command(epilog="Example: chainfl stake status --account 0x…")
@account_option
@json_option
@pass_app
def status(app: App, account: Address | None, as_json: bool) -> None:
    """Show wallet, free and locked stake, and when what is locked comes free."""
    found = app.reader.stake_status(app.account(account))
    now = app.reader.latest_block().timestamp
    if as_json:
        show_json({"stake": found, "chain_time": now})
        return
    money = app.money
    show_facts(
        [
            ("account", found.account),
            ("wallet", money.show(found.token_balance)),
            ("free stake", money.show(found.free)),
            ("locked stake", money.show(sum(lock.amount for lock in found.locks))),
            ("earned, to claim", money.show(found.credit)),
            ("for gas", ether(found.native_wei)),
        ]
    )
    if found.locks:
        show()
        rows = [
            (lock.task_id, lock.role.name.lower(), money.show(lock.amount), countdown(lock, now))
            for lock in found.locks
        ]
        show_table(["task", "role", "locked", "free"], rows)
    _advise(found, now)


def _lock_row(lock: Lock, money: Money, now: int) -> tuple[object, ...]:
    return (lock.task_id, lock.role.name.lower(), money.show(lock.amount), countdown(lock, now))


def countdown(lock: Lock, now: int) -> str:
    """When a lock comes free, in words. now: chain time."""
    if lock.unlockable_at is None:
        return "after the task, and the unbonding that follows"
    if lock.unlockable_at > now:
        return f"in {duration(lock.unlockable_at - now)} (unbonding)"
    return "now: `chainfl stake withdraw --all` unlocks it"


def matured_locks(status: StakeStatus, now: int) -> list[Lock]:
    """The locks whose unbonding is over."""
    return [lock for lock in status.locks if lock.unlockable_at is not None and lock.unlockable_at <= now]


def deposit_stake(app: App, operator: Operator, wei: Wei, consent: Consent) -> list[Sent]:
    """Shows, asks, deposits. Raises InsufficientTokens before anything is signed."""
    if wei <= 0:
        raise UsageError("there is nothing to deposit")
    status = operator.stake_status()
    require_tokens(app, status, wei)
    spending = Spending(
        f"Deposit {app.money.show(wei)} as stake",
        [Step("depositing", lambda port: port.deposit(wei))],
        [
            Change("wallet", status.token_balance, status.token_balance - wei),
            Change("free stake", status.free, status.free + wei),
        ],
    )
    return spend(operator, spending, consent, app.money.show)


def require_tokens(app: App, status: StakeStatus, wei: int) -> None:
    """Raises InsufficientTokens when the wallet holds less."""
    if status.token_balance < wei:
        raise InsufficientTokens(
            f"the wallet of {status.account} holds {app.money.show(status.token_balance)}, and this takes "
            f"{app.money.show(wei)}",
            account=status.account,
            balance=status.token_balance,
            needed=wei,
        )


def _require_withdrawable(app: App, status: StakeStatus, wei: int, available: int) -> None:
    if wei > available:
        locked = sum(lock.amount for lock in status.locks)
        raise StakeTooLow(
            f"{app.money.show(available)} can be withdrawn, not {app.money.show(wei)} ({app.money.show(locked)} are or "
            "were locked: `chainfl stake status` shows until when)",
            account=status.account,
            free=available,
            required=wei,
        )
    if wei <= 0:
        raise UsageError("there is nothing to withdraw; `chainfl stake status` shows what is locked until when")


def _withdrawal(app: App, status: StakeStatus, matured: list[Lock], wei: Wei) -> Spending:
    unlocks = [_unlock_step(lock) for lock in matured]
    available = status.free + sum(lock.amount for lock in matured)
    return Spending(
        f"Withdraw {app.money.show(wei)} of stake",
        [*unlocks, Step("withdrawing", lambda port: port.withdraw(wei), after_others=wei > status.free)],
        [
            Change("stake that can be withdrawn", available, available - wei),
            Change("wallet", status.token_balance, status.token_balance + wei),
        ],
    )


def _unlock_step(lock: Lock) -> Step:
    return Step(f"unlocking the stake of task {lock.task_id}", lambda port: port.unlock(lock.task_id, lock.role))


def _advise(status: StakeStatus, now: int) -> None:
    if status.credit:
        say("next: `chainfl rewards claim`")
    elif matured_locks(status, now):
        say("next: `chainfl stake withdraw --all`")


# --- rewards -------------------------------------------------------------------------------------


@click.group()
def rewards() -> None:
    """Claim what was earned: pay, refunds, and parts of slashes."""


@rewards.command(epilog="Example: chainfl rewards claim --dry-run")
@spending_options
@pass_app
def claim(app: App, consent: Consent) -> None:
    """Move everything that was credited to the wallet."""
    operator = app.operator
    status = operator.stake_status()
    if not status.credit:
        raise AlreadyDone(f"{status.account} has nothing to claim", account=status.account)
    spending = Spending(
        f"Claim {app.money.show(status.credit)}",
        [Step("claiming", lambda port: port.claim())],
        [Change("wallet", status.token_balance, status.token_balance + status.credit)],
    )
    sent = spend(operator, spending, consent, app.money.show)
    done = f"{app.money.show(status.credit)} claimed"
    report_sent(sent, consent, done, amount_wei=status.credit, account=status.account)
