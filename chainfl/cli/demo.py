"""`chainfl demo`."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chainfl.cli.output import show, show_facts, show_table, tokens
from chainfl.simulation.attacks import ATTACKS
from chainfl.tasks.state import Outcome, Role

if TYPE_CHECKING:
    from chainfl.simulation.attack_report import AttackReport
    from chainfl.simulation.report import Report


@click.command(
    epilog="Example: chainfl demo --rounds 3 --seed 1 --json report.json",
    short_help="Watch independent workers train one model on a local chain.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rounds of the task.")
@click.option("--workers", type=click.IntRange(1, 64), default=5, show_default=True, help="Workers, a process each.")
@click.option("--validators", type=click.IntRange(1, 16), default=3, show_default=True, help="Validators.")
@click.option("--clients-per-round", type=click.IntRange(1), help="So many workers, drawn on chain. [default: all]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split and the model.")
@click.option("--data", type=click.Choice(["digits", "mnist", "cifar10"]), default="digits", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with MNIST's or CIFAR-10's files.")
@click.option("--attack", type=click.Choice(list(ATTACKS)), help="Stage this attack in round 2, and what answers it.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the run is kept. [default: ./chainfl-demo]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the report here.")
def demo(
    rounds: int,
    workers: int,
    validators: int,
    clients_per_round: int | None,
    seed: int,
    data: str,
    data_dir: Path | None,
    attack: str | None,
    folder: Path | None,
    json_path: Path | None,
) -> None:
    """Watch independent workers train one model together on a local chain.

    Starts Anvil, deploys the contracts, publishes a task and runs every participant as a process of its own, with the
    commands that an operator would use. The folder that it leaves keeps everything: chain, store, logs, model.

    With --attack one of them cheats, and a watcher follows the task (`chainfl watch`): the end says what it cost whom.
    """
    from rich.console import Console

    from chainfl.simulation.demo import DemoConfig, new_folder
    from chainfl.simulation.run import keep_report, run_demo
    from chainfl.simulation.view import open_view

    _end_on_sigterm()
    wanted = folder or Path("chainfl-demo")
    attacks = () if attack is None else (attack,)
    config = DemoConfig(
        Path(), rounds, workers, validators, seed, data, data_dir, attacks=attacks, clients_per_round=clients_per_round
    )
    config.check()
    config = replace(config, folder=new_folder(wanted.resolve().parent, wanted.name))
    console = Console(stderr=True)
    report = run_demo(config, lambda: open_view(console), lambda text: console.print(text, style="dim", soft_wrap=True))
    if json_path is not None:
        keep_report(report, json_path)
    _tell(report)


def _end_on_sigterm() -> None:
    """SIGTERM ends the demo as Ctrl-C does: through the contexts that stop its processes."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _tell(report: Report) -> None:
    show()
    _tell_accuracy(report)
    show()
    _tell_money(report)
    show()
    if report.attack is not None:
        _tell_attack(report, report.attack)
        show()
    show(f"model     {report.model_id}")
    show(f"CID       {report.model_cid}")
    show(f"lineage   {'re-derived from genesis, every link holds' if report.verified else 'DOES NOT RE-DERIVE'}")
    show(f"time      {report.seconds_total:.0f} s, of which workers trained {report.seconds_training:.1f} s in all")
    show()
    _tell_next(report)


def _tell_accuracy(report: Report) -> None:
    show(f"Test accuracy on {report.test_examples} images that nobody trained on:")
    outcomes = ["genesis", *report.outcomes]
    show_table(
        ["round", "accuracy", "outcome"],
        [(i, f"{100 * a:.1f}%", o) for i, (a, o) in enumerate(zip(report.accuracy_by_round, outcomes, strict=False))],
    )
    show(f"centralised, the same steps on the workers' data together: {100 * report.centralized_accuracy:.1f}%")


def _tell_money(report: Report) -> None:
    rows = [
        (report.roles.get(account, account), account, tokens(wei))
        for account, wei in sorted(report.payouts_wei.items(), key=lambda item: report.roles.get(item[0], ""))
    ]
    show_table(["participant", "account", "earned"], rows)
    earned = sum(report.payouts_wei.values())
    relation = "=" if report.is_balanced else "IS NOT"
    show(
        f"earned {tokens(earned)} + refunded {tokens(report.refund_wei)} + burned {tokens(report.burned_wei)} "
        f"{relation} escrowed {tokens(report.escrow_wei)}"
    )


def _tell_attack(report: Report, attack: AttackReport) -> None:
    show(f"The attack, {attack.name}, came in round {attack.round}:")
    show_facts(list(attack_facts(report, attack)))


def attack_facts(report: Report, attack: AttackReport) -> Iterator[tuple[str, str]]:
    """What the attack came to, for people."""
    yield "attacker", f"{report.roles[attack.attacker]}, which {ATTACKS[attack.name].tries}"
    yield "slashed", tokens(attack.slashed_wei)
    for account, wei in attack.received_wei.items():
        yield "received", f"{tokens(wei)} by {report.roles.get(account, account)}"
    yield "burned", tokens(attack.burned_wei)
    settled = "from its transaction to the slash" if attack.slashed_wei else "until the round was paid"
    yield "settled", f"in {attack.blocks_to_settle} blocks {settled}"
    yield (
        "in all",
        f"the attacker {_signed(attack.attacker_change_wei)}, the watcher {_signed(attack.watcher_change_wei)}",
    )
    yield "", f"the median honest worker {_signed(attack.honest_change_wei)}"
    if attack.earned_if_honest_wei is not None:
        yield "", f"the attacker, had it been honest, {_signed(attack.earned_if_honest_wei)}"
    yield "gas", f"{attack.attacker_gas:,} by the attacker, {attack.watcher_gas:,} by the watcher"
    without = f"{100 * attack.accuracy_without_attack:.1f}% with everybody honest"
    yield "accuracy", f"{100 * report.accuracy_by_round[-1]:.1f}%; {without}"


def _signed(wei: int) -> str:
    return f"+{tokens(wei)}" if wei >= 0 else tokens(wei)


def _tell_next(report: Report) -> None:
    folder = _shown(Path(report.folder))
    command = _command()
    asking = f"{command} --config {folder}/chainfl.toml"
    show(f"Everything is in {folder}: report.json, accuracy.png, rewards.png, lineage.png, model.safetensors, logs.")
    show("Start its chain again, and ask it from another terminal:")
    show(f"  {command} local up {folder}")
    show(f"  {asking} model verify {report.model_id}")
    show(f"  {asking} model lineage {report.model_id}")
    show(f"  {asking} round replay 1 {report.rounds}")
    if report.attack is not None:
        show(f"{_audit_words(report, report.attack)}:")
        show(f"  {asking} round audit 1 {report.attack.round}")


def _audit_words(report: Report, attack: AttackReport) -> str:
    """What an audit of the attack's round shows."""
    is_final = report.outcomes[attack.round - 1] == Outcome.FINAL.name.lower()
    if ATTACKS[attack.name].role is Role.AGGREGATOR and is_final:
        return f"In round {attack.round}, the attacker's attempt, which was refuted, and the second one, which stands"
    return f"Every update and attempt of round {attack.round}, checked against public data"


def _shown(path: Path) -> Path:
    """As short as it can be said from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _command() -> str:
    """How the user starts chainfl from here: by its name, or by the path of the one that runs now."""
    if shutil.which("chainfl") is not None:
        return "chainfl"
    return str(_shown(Path(sys.argv[0]).absolute()))
