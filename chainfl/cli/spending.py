"""Everything that costs money goes through here: what it moves and costs is shown, then agreed to, then sent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chainfl.agents.ports import DryRun, SendResult, Sent, TimedOut, WouldRevert
from chainfl.cli.output import ether, is_interactive, say, show, show_facts, show_json
from chainfl.errors import ChainflError, Interrupted, TransactionReverted, TransactionTimedOut, UsageError

if TYPE_CHECKING:
    from chainfl.chain.operator import Operator

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Consent:
    """How far the operator lets a command go. json: results as one JSON document."""

    dry_run: bool = False
    yes: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A balance of tokens, in wei, before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction. send: gives the same result kinds on a real operator as on a dry run.

    after_others: it only works once the steps before it are mined, so nothing can be estimated before.
    """

    what: str
    send: Callable[[Operator], SendResult]
    after_others: bool = False


@dataclass(frozen=True, slots=True)
class Spending:
    """What a command is about to do.

    what: in the imperative. notes: what else to know before agreeing. prepare: done once agreed, before the first step.
    """

    what: str
    steps: Sequence[Step]
    changes: Sequence[Change] = ()
    notes: Sequence[str] = ()
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Quote:
    """What the steps cost in native currency, at most. unknown: steps that can't be estimated yet."""

    gas: int
    cost_wei: int
    native_before: int
    unknown: int

    @property
    def native_after(self) -> int:
        """What is left if it costs the most."""
        return self.native_before - self.cost_wei


def spending_options(command: F) -> F:
    """Adds --dry-run, --yes and --json, handed over as `consent`."""

    @click.option("--dry-run", is_flag=True, help="Show what it would do and cost, and send nothing.")
    @click.option("--yes", "-y", is_flag=True, help="Do not ask.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @functools.wraps(command)
    def wrapped(*args: Any, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> Any:
        return command(*args, consent=Consent(dry_run, yes, as_json), **options)

    return wrapped  # type: ignore[return-value]


def spend(operator: Operator, spending: Spending, consent: Consent, show_tokens: Callable[[int], str]) -> list[Sent]:
    """Shows the spending, asks, and sends its steps in order. returns: the receipts; none after a dry run.

    Raises the error that a step would revert with before anything is sent, UsageError without a terminal and without
    --yes, Interrupted when the answer is no, and TransactionTimedOut.
    """
    quote = _quote(operator, spending.steps)
    if consent.json and consent.dry_run:
        show_json({"dry_run": True, "what": spending.what, "balances": list(spending.changes), "gas": quote})
        return []
    tell(spending, quote, show_tokens)
    if consent.dry_run:
        show("dry run: nothing was sent")
        return []
    agree(consent)
    spending.prepare()
    return [_send(operator, step) for step in spending.steps]


def agree(consent: Consent, question: str = "Send?") -> None:
    """Returns once the operator has agreed. Raises UsageError where nobody can be asked, Interrupted for a no."""
    if consent.yes:
        return
    if not is_interactive():
        raise UsageError("there is no terminal to ask on; agree with --yes, or look with --dry-run")
    if not click.confirm(question, default=False, err=True):
        raise Interrupted("nothing was sent")


def report_sent(sent: Sequence[Sent], consent: Consent, done: str, **facts: Any) -> None:
    """The result of what was sent. done: one line in the past tense; facts: beside the transactions, for JSON."""
    if not sent:
        return
    if consent.json:
        show_json({**facts, "transactions": list(sent)})
        return
    show(done)
    show_facts(("transaction", f"{s.tx_hash} (block {s.block_number}, {s.gas_used:,} gas)") for s in sent)


def settled(result: SendResult) -> Sent:
    """The receipt of a real send. Raises the error it met instead."""
    match result:
        case Sent():
            return result
        case WouldRevert(error):
            raise error
        case TimedOut(tx_hash):
            raise TransactionTimedOut(f"no receipt yet for {tx_hash}", tx_hash=tx_hash)
        case DryRun():
            raise TransactionReverted("this was a dry run; nothing was sent")


def _quote(operator: Operator, steps: Sequence[Step]) -> Quote:
    """Simulates every step that can be. Raises the error that one would revert with."""
    view = operator.dry_run()
    gas = cost = unknown = 0
    for step in steps:
        if step.after_others:
            unknown += 1
            continue
        result = step.send(view)
        if isinstance(result, WouldRevert):
            raise result.error
        assert isinstance(result, DryRun), "a dry run neither sends nor waits"
        gas, cost = gas + result.gas_estimate, cost + result.cost_wei
    return Quote(gas, cost, operator.native_balance(), unknown)


def tell(spending: Spending, quote: Quote, show_tokens: Callable[[int], str]) -> None:
    """What is about to happen, what it moves and costs, and what is left, to standard error."""
    say(spending.what)
    for change in spending.changes:
        moved = change.after - change.before
        sign = "+" if moved >= 0 else "-"
        amount = f"{sign}{show_tokens(abs(moved))}"
        say(f"  {change.name}: {show_tokens(change.before)} → {show_tokens(change.after)} ({amount})")
    later = f", and of {_transactions(quote.unknown)} that can only be estimated later" if quote.unknown else ""
    say(f"  gas: {quote.gas:,}, at most {ether(quote.cost_wei)}{later}")
    say(f"  balance for gas: {ether(quote.native_before)} → {ether(max(0, quote.native_after))} or more")
    for note in spending.notes:
        say(f"  {note}")


def _transactions(count: int) -> str:
    return f"{count} transaction{'s' if count != 1 else ''}"


def _send(operator: Operator, step: Step) -> Sent:
    say(f"{step.what} …")
    try:
        return settled(step.send(operator))
    except ChainflError as error:
        error.evidence.setdefault("step", step.what)
        raise
