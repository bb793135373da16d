"""Attacks, attackers and what is measured of them: pure parts, no chain and no processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chainfl.chain.events import Event, Log
from chainfl.encoding.chunk_tree import VectorKind, build_tree, check_update_root, update_root
from chainfl.encoding.fixed_point import UPDATE_LIMIT
from chainfl.errors import RootMismatch, UsageError
from chainfl.simulation.attack_report import Answer, AttackUnanswered, answer_to, gas_used
from chainfl.simulation.attackers import ATTACKERS, NormWorker, OutOfRangeWorker, run
from chainfl.simulation.attacks import ATTACKS, FROM_ROUND
from chainfl.simulation.demo import Cast, DemoConfig
from chainfl.simulation.run import Delay
from chainfl.tasks.spec import default_format
from chainfl.tasks.state import ZERO_ADDRESS, Phase, Role
from chainfl.types import Address

KEYS = [f"0x{number:064x}" for number in range(1, 30)]
ATTACKER, WATCHER, OTHER = (Address("0x" + digits * 20) for digits in ("aa", "bb", "cc"))
FORM = replace(default_format(1000), chunk_params=16)


# --- who takes part ------------------------------------------------------------------------------


def cast_of(*attacks: str, workers: int = 5) -> Cast:
    return Cast.of(KEYS, DemoConfig(Path("x"), workers=workers, validators=1, attacks=attacks))


def test_attacks__each__has_an_attacker():
    assert set(ATTACKS) == set(ATTACKERS)


def test_cast__worker_attack__the_attacker_has_the_last_share_and_somebody_watches():
    cast = cast_of("norm", workers=3)
    assert [(part.name, part.role, part.share) for part in cast.parts] == [
        ("worker-1", Role.WORKER, "worker-1"),
        ("worker-2", Role.WORKER, "worker-2"),
        ("attacker-norm", Role.WORKER, "worker-3"),
        ("validator-1", Role.VALIDATOR, "validator-1"),
        ("aggregator", Role.AGGREGATOR, None),
        ("watcher", Role.CHALLENGER, None),
    ]
    assert [part.name for part in cast.attackers] == ["attacker-norm"]


def test_cast__aggregator_attack__there_is_an_honest_one_beside_it():
    cast = cast_of("wrong-aggregate")
    assert [part.name for part in cast.honest(Role.AGGREGATOR)] == ["aggregator"]
    assert [part.name for part in cast.attackers] == ["attacker-wrong-aggregate"]


def test_cast__without_attack__nobody_watches():
    assert not cast_of().honest(Role.CHALLENGER)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attacks": ("no-such-attack",)},
        {"attacks": ("wrong-aggregate", "withheld-aggregate")},
        {"attacks": ("norm",), "rounds": 1},
        {"attacks": ("norm", "copy"), "workers": 3},
    ],
)
def test_demo_config__impossible_attack__is_refused_before_anything_starts(wrong):
    with pytest.raises(UsageError):
        replace(DemoConfig(Path("x")), **wrong).check()


# --- what attackers make -------------------------------------------------------------------------


def an_update() -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, FORM.num_params).astype(np.int16)


def test_out_of_range_worker__its_update__is_honest_but_for_one_value():
    values, commitment = OutOfRangeWorker.forge(None, an_update(), FORM)
    assert (values == -UPDATE_LIMIT - 1).sum() == 1
    check_update_root(values, FORM.chunk_params, commitment)


def test_norm_worker__its_update__is_over_the_bound_and_states_less():
    form = replace(FORM, max_squared_norm=4 * update_root(an_update(), FORM.chunk_params).sum_of_squares)
    values, commitment = NormWorker.forge(None, an_update(), form)
    assert update_root(values, form.chunk_params).sum_of_squares > form.max_squared_norm
    assert commitment.sum_of_squares <= form.max_squared_norm
    with pytest.raises(RootMismatch):
        check_update_root(values, form.chunk_params, commitment)


def test_norm_worker__its_tree__is_honest_below_the_top():
    values, commitment = NormWorker.forge(None, an_update(), FORM)
    tree = build_tree(values, FORM.chunk_params, VectorKind.UPDATE)
    assert tree.root != commitment.root
    digest, total = tree.node(tree.shape.depth, 0)
    assert total == sum(int(value) ** 2 for value in values)
    assert len(digest) == 32


def test_attackers__unknown_name__is_refused():
    with pytest.raises(UsageError, match="no attacker"):
        run("nothing", [])


def test_attackers__as_a_process__run_the_operators_command():
    done = subprocess.run(
        [sys.executable, "-m", "chainfl.simulation.attackers", "norm", "worker", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Train in every round of a task" in done.stdout


# --- what is measured ----------------------------------------------------------------------------


def an_event(name: str, block: int, contract: str = "TaskCoordinator", **arguments: object) -> Event:
    log = Log(ZERO_ADDRESS, (), b"", block, bytes(32), "0x", 0)
    return Event(name, contract, arguments, log)


def posted(block: int, number: int, by: Address = ATTACKER) -> Event:
    return an_event("AggregatePosted", block, aggregator=by, round=number)


def slashed(block: int, number: int, reason: str = "wrong coordinate", who: Address = ATTACKER) -> list[Event]:
    word = reason.encode().ljust(32, b"\0")
    return [
        an_event("Slashed", block, "StakeVault", account=who, amount=200, beneficiary=WATCHER, burned=100),
        an_event("Slashed", block, account=who, round=number, amount=200, reason=word),
    ]


def answer(name: str, events: list[Event]) -> Answer:
    return answer_to(ATTACKS[name], ATTACKER, events, "logs")


def test_answer__slashed__says_where_the_money_went_and_how_long_it_took():
    events = [posted(5, 1), posted(20, 2), *slashed(26, 2)]
    assert answer("wrong-aggregate", events) == Answer(2, 200, 100, {WATCHER: 100}, 6)


def test_answer__turn_came_late__names_the_round_in_which_it_did():
    events = [posted(20, 2, OTHER), posted(40, 3), *slashed(44, 3)]
    assert answer("wrong-aggregate", events).round == 3


def test_answer__nobody_gets_the_other_half__all_of_it_burned():
    word = b"no reveal".ljust(32, b"\0")
    events = [
        an_event("UpdateCommitted", 10, worker=ATTACKER, round=2),
        an_event("Slashed", 18, "StakeVault", account=ATTACKER, amount=20, beneficiary=ZERO_ADDRESS, burned=20),
        an_event("Slashed", 18, account=ATTACKER, round=2, amount=20, reason=word),
    ]
    assert answer("no-reveal", events) == Answer(2, 20, 20, {}, 8)


def test_answer__nothing_to_slash__waits_for_the_pay_of_the_round():
    events = [
        an_event("UpdateRevealed", 10, worker=ATTACKER, round=2),
        an_event("RoundClosed", 17, round=2),
    ]
    assert answer("free-ride", events) == Answer(FROM_ROUND, 0, 0, {}, 7)


def test_answer__attacker_had_no_turn__is_told():
    with pytest.raises(AttackUnanswered, match="no turn"):
        answer("wrong-aggregate", [posted(5, 1), posted(20, 2, OTHER)])


@pytest.mark.parametrize("others", [[], slashed(26, 2, "bytes withheld"), slashed(26, 2, who=OTHER), slashed(44, 3)])
def test_answer__no_slash_for_it__is_told(others):
    with pytest.raises(AttackUnanswered, match="nobody answered"):
        answer("wrong-aggregate", [posted(20, 2), *others])


def test_gas_used__told_of_more_than_once__counts_once():
    told = [
        {"agent": "watcher", "what": "proven", "tx": "0x1", "gas": 4},
        {"agent": "watcher", "what": "sent", "tx": "0x1", "gas": 4},
        {"agent": "watcher", "what": "sent", "tx": "0x2", "gas": 3},
        {"agent": "watcher", "what": "slashed", "tx": "0x9", "wei": 5},
        {"agent": "watcher", "what": "report", "gas": 7},
        {"agent": "worker-1", "what": "committed", "tx": "0x3", "gas": 1},
    ]
    assert gas_used(told, "watcher") == 7


# --- whose turn it is ----------------------------------------------------------------------------


class Stopwatch:
    """Stands in for the honest aggregator's process."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def hold_up(self) -> None:
        self.told.append("held up")

    def let_go(self) -> None:
        self.told.append("let go")


def a_view(number: int, attempt: int, phase: Phase) -> SimpleNamespace:
    return SimpleNamespace(round=number, attempt=attempt, phase=phase)


@pytest.mark.parametrize("begin", [a_view(1, 1, Phase.CHALLENGE), a_view(1, 2, Phase.SETTLEMENT)])
@pytest.mark.parametrize(
    "end", [a_view(2, 1, Phase.CHALLENGE), a_view(2, 2, Phase.AGGREGATE), a_view(3, 1, Phase.COMMIT)]
)
def test_delay__attackers_round__holds_the_rival_up_until_something_is_posted(begin, end):
    honest = Stopwatch()
    delay = Delay(honest)
    delay.look(a_view(1, 1, Phase.AGGREGATE))
    assert honest.told == []
    for view in (begin, a_view(2, 1, Phase.COMMIT), a_view(2, 1, Phase.AGGREGATE)):
        delay.look(view)
    assert honest.told == ["held up"]
    delay.look(end)
    delay.look(a_view(3, 1, Phase.AGGREGATE))
    assert honest.told == ["held up", "let go"]


@pytest.mark.parametrize("end", [a_view(1, 2, Phase.AGGREGATE), a_view(1, 1, Phase.COMPLETED)])
def test_delay__round_before_goes_on_or_is_the_last__lets_go(end):
    honest = Stopwatch()
    delay = Delay(honest)
    delay.look(a_view(1, 1, Phase.CHALLENGE))
    delay.look(end)
    assert honest.told == ["held up", "let go"]


def test_delay__rivals_in_two_tasks__holds_up_until_the_last_has_posted():
    honest = Stopwatch()
    delay = Delay(honest)
    computes, posted = a_view(2, 1, Phase.AGGREGATE), a_view(2, 1, Phase.CHALLENGE)
    for views in ((a_view(1, 1, Phase.COMMIT), computes), (computes, computes), (posted, computes)):
        delay.look(*views)
    assert honest.told == ["held up"]
    delay.look(posted, posted)
    assert honest.told == ["held up", "let go"]


def test_delay__no_attack_on_the_aggregate__holds_nobody_up():
    Delay(None).look(a_view(2, 1, Phase.AGGREGATE))
