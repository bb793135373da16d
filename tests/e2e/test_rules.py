"""Real agents on a real chain under each rule: the same processes play one task after the other.

In the tasks with FedAdam and with groups an aggregator cheats where only these tasks have anything to cheat with, and
the watcher proves it. The task with SCAFFOLD, compressed updates and scores that are sampled is played once more by
`simulate`, which comes to its models, weights and scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from theatre import Theatre, theatre

from chainfl.chain.deployment import TOKEN
from chainfl.chain.operator import Operator
from chainfl.cli.main import run
from chainfl.simulation.attacks import FROM_ROUND
from chainfl.simulation.demo import DemoConfig, Part, done, participant_command
from chainfl.simulation.recorded import participants_of
from chainfl.simulation.run import Delay
from chainfl.simulation.simulate import simulate
from chainfl.simulation.strategy import Strategy
from chainfl.tasks.spec import DEFAULT_ECONOMICS
from chainfl.tasks.state import ZERO_ROOT, AggregateRefutation, Outcome, Phase, Role, Rule
from chainfl.training.datasets import load_folder
from chainfl.training.presets import DIGITS
from chainfl.types import TaskId, Wei

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

ROUNDS = 2
STAKES = Wei(3_000 * TOKEN)
"""For a place in every task at once."""

# Phases end when everybody has acted, so long windows cost nothing; a challenge takes all of its window. Where there is
# something to prove, it is twice as long as on a local chain: here two chains share the machine.
TASK = """
preset = "digits"
reward = "3"
rounds = 2
workers = 3
validators = 1
aggregators = {aggregators}
[model]
name = "mlp"
params = {{ in_features = 64, num_classes = 10, hidden = 16, layers = 1 }}
[format]
chunk_params = 16
{rule}
[windows]
commit = 300
reveal = 300
score_commit = 300
score_reveal = 300
slot = 4
challenge = {challenge}
answer = 5
proof = 5
{tables}
"""


@dataclass(frozen=True)
class Play:
    """One task. cheat: the attacker's name, which is also that of its process; reason: of what it loses.

    rule: the end of [format]; tables: further ones.
    """

    rule: str
    cheat: str | None = None
    reason: str = ""
    tables: str = ""

    @property
    def text(self) -> str:
        aggregators, challenge = (2, 6) if self.cheat else (1, 3)
        return TASK.format(rule=self.rule, aggregators=aggregators, challenge=challenge, tables=self.tables)


PLAYS: Mapping[str, Play] = {
    "median": Play('rule = "median"'),
    "trimmed mean": Play('rule = "trimmed_mean"\ntrim_num = 1\ntrim_den = 3'),
    "momentum": Play('momentum = "1/2"'),
    "nesterov": Play('server = "nesterov"'),
    # It lies about a second moment: the model that it posts is right.
    "adam": Play('server = "adam"\nstep_den = 100', "wrong-state", "wrong coordinate"),
    "groups": Play("group_size = 2", "wrong-group", "wrong group sum"),
    "scaffold": Play(
        'rule = "mean"',
        tables="""
[training]
algorithm = "scaffold"
[validation]
rule = "rfa"
contribution = "gtg_shapley"
[payload]
compression = "int8"
""",
    ),
}
# The names of the parts with which the two cheats are cast.
CAST = {"wrong-state": "attacker-wrong-aggregate", "wrong-group": "attacker-withheld-aggregate"}


@dataclass(frozen=True)
class Season:
    """All tasks after their last round, by what they are called here."""

    scene: Theatre
    tasks: Mapping[str, TaskId]

    def part(self, name: str) -> Part:
        return next(part for part in self.scene.stage.cast.parts if part.name == name)


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Season]:
    folder = tmp_path_factory.mktemp("rules") / "run"
    config = DemoConfig(
        folder, rounds=ROUNDS, workers=3, validators=1, attacks=("wrong-aggregate", "withheld-aggregate")
    )
    with theatre(config) as scene, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFL_PRIVATE_KEY", scene.stage.anvil.private_keys[1])
        tasks = {name: create(scene, play) for name, play in PLAYS.items()}
        season = Season(scene, tasks)
        enter(season)
        play_all(season)
        yield season


def create(scene: Theatre, play: Play) -> TaskId:
    """Publishes a task as its requester would, by command."""
    folder, reader = scene.stage.config.folder, scene.stage.reader
    (folder / "task.toml").write_text(play.text)
    assert chainfl(folder, "task", "create", "--file", str(folder / "task.toml"), "--yes") == 0
    return TaskId(reader.num_tasks())


def chainfl(folder: Path, *arguments: str) -> int:
    return run(("--config", str(folder / "chainfl.toml"), *arguments))


def enter(season: Season) -> None:
    """Everybody honest goes from task to task by themselves, the newest first; each cheat knows its own."""
    stage = season.scene.stage
    bank = Operator(stage.reader.client, stage.deployment, stage.cast.deployer)
    for part in stage.cast.parts:
        done(bank.transfer(part.signer.address, STAKES))
        done(Operator(stage.reader.client, stage.deployment, part.signer).deposit(STAKES))
        if part.attack is None:
            start(season, part, *(word for word in without_task(season, part) if word != "--once"))
    for name, play in PLAYS.items():
        if play.cheat is not None:
            part = season.part(CAST[play.cheat])
            command = participant_command(replace(stage, task_id=season.tasks[name]), part)
            start(season, part, play.cheat, *command, module="chainfl.simulation.attackers")


def without_task(season: Season, part: Part) -> tuple[str, ...]:
    command = participant_command(season.scene.stage, part)
    place = command.index("--task")
    return command[:place] + command[place + 2 :]


def start(season: Season, part: Part, *command: str, module: str = "chainfl.cli.main") -> None:
    scene = season.scene
    env = {"CHAINFL_PRIVATE_KEY": part.private_key, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    scene.running[part.name] = scene.group.start(
        part.name, command, env, module=module, may_fail=part.attack is not None
    )


def play_all(season: Season) -> None:
    """Until all are complete. The honest aggregator is held up while the turn to cheat must come."""
    scene, reader = season.scene, season.scene.stage.reader
    delay = Delay(scene.running["aggregator"])

    def is_over() -> bool | None:
        scene.group.check()
        views = {name: reader.round(task_id) for name, task_id in season.tasks.items()}
        delay.look(*(view for name, view in views.items() if PLAYS[name].cheat))
        return True if all(view.phase is Phase.COMPLETED for view in views.values()) else None

    scene.until(is_over, "the end of all tasks")


@pytest.mark.parametrize("name", PLAYS)
def test_rule__two_rounds__end_final_and_the_lineage_is_derived_again(season: Season, name: str) -> None:
    stage, task_id = season.scene.stage, season.tasks[name]
    scene = Theatre(replace(stage, task_id=task_id), season.scene.group)
    assert scene.outcomes() == [Outcome.FINAL] * ROUNDS
    assert chainfl(stage.config.folder, "model", "verify", str(task_id)) == 0
    for number in range(1, ROUNDS + 1):
        weights = [update.weight for update in stage.reader.tallied_updates(task_id, number, 0)]
        assert len(weights) == 3
        assert all(weights)
    escrow = stage.reader.escrow(task_id)
    assert (escrow.balance, escrow.paid + escrow.refunded + escrow.burned) == (0, escrow.funded)


@pytest.mark.parametrize("name", [name for name, play in PLAYS.items() if play.cheat])
def test_rule__the_aggregator_lies_where_only_this_rule_can__loses_its_bond_to_the_watcher(
    season: Season, name: str
) -> None:
    reader, task_id, play = season.scene.stage.reader, season.tasks[name], PLAYS[name]
    assert play.cheat is not None
    cheat, watcher = season.part(CAST[play.cheat]), season.part("watcher")
    (fallen,) = reader.refuted_aggregates(task_id, 0)
    assert fallen == AggregateRefutation(
        FROM_ROUND, 1, cheat.signer.address, watcher.signer.address, play.reason, fallen.block_number
    )
    first, second = reader.posted_aggregates(task_id, FROM_ROUND, 0)
    assert (first.poster, second.poster) == (cheat.signer.address, season.part("aggregator").signer.address)
    (slash,) = reader.slashes(task_id, cheat.signer.address, 0)
    assert (slash.role, slash.amount) == (Role.AGGREGATOR, DEFAULT_ECONOMICS.aggregator_bond)


def test_rule__scaffold_compressed_and_sampled__is_what_simulate_plays(season: Season) -> None:
    stage, task_id = season.scene.stage, season.tasks["scaffold"]
    recorded = participants_of(stage.reader, task_id)
    data = {part.signer.address: stage.config.folder / "data" / part.share for part in stage.cast.parts if part.share}
    workers, validators = (
        [load_folder(data[account]) for account in accounts] for accounts in (recorded.workers, recorded.validators)
    )
    found = simulate(
        "mlp",
        workers[0],
        model_params={"hidden": 16, "layers": 1},
        strategy=Strategy(
            "scaffold",
            judging={"rule": "rfa", "contribution": "gtg_shapley"},
            compression="int8",
            numbers={"chunk_params": 16},
        ),
        partition=workers,
        root_data=validators,
        validators=len(validators),
        test=load_folder(stage.config.folder / "data" / "test"),
        rounds=ROUNDS,
        steps=DIGITS.steps,
        batch_size=DIGITS.batch_size,
        learning_rate=DIGITS.learning_rate,
        momentum=DIGITS.momentum,
        participants=recorded,
    )
    roots = [stage.reader.model_location(task_id, number)[0].hex() for number in range(ROUNDS + 1)]
    assert [metrics.root for metrics in found.rounds] == roots
    for metrics in found.rounds[1:]:
        votes = {each.worker: each for each in stage.reader.tallied_updates(task_id, metrics.round, 0)}
        tallied = [votes[recorded.workers[client]] for client in metrics.sent]
        assert metrics.weights == tuple(each.weight for each in tallied)
        assert metrics.scores == tuple(each.score for each in tallied)


def test_rule__claims__have_the_roots_that_the_rule_asks_for(season: Season) -> None:
    reader = season.scene.stage.reader
    forms = {name: reader.task(task_id).format for name, task_id in season.tasks.items()}
    assert [form.rule for form in forms.values()] == [Rule.MEDIAN, Rule.TRIMMED_MEAN] + [Rule.MEAN] * 5
    servers = ["plain"] * 2 + list(PLAYS)[2:5] + ["plain"] * 2
    assert [form.server.name.lower() for form in forms.values()] == servers
    for name, task_id in season.tasks.items():
        for posted in reader.posted_aggregates(task_id, FROM_ROUND, 0):
            assert (posted.claim.state_root != ZERO_ROOT) == forms[name].has_state
            assert len(posted.claim.group_roots) == (2 if name == "groups" else 0)
