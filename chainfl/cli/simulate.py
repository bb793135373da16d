"""`chainfl simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from chainfl.cli.options import COMPRESSIONS
from chainfl.cli.output import plain, show, show_facts, show_json, show_table
from chainfl.tasks.state import SELECTIONS
from chainfl.tasks.validation_rules import CONTRIBUTION_PARAMETERS, RULE_PARAMETERS
from chainfl.training.presets import PRESETS, Preset

if TYPE_CHECKING:
    from chainfl.simulation.outcome import Simulation
    from chainfl.simulation.strategy import Strategy

PRECISIONS: Final = ("float32", "bfloat16")


@click.command(
    epilog="Example: chainfl simulate --preset digits --partition skewed --strategy scaffold --out run",
    short_help="Try a strategy without a chain: partition, metrics, files.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), default="digits", show_default=True, help="Model and data.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with MNIST's or CIFAR-10's files.")
@click.option("--clients", type=click.IntRange(1, 1024), help="How many train. [default: 10]")
@click.option(
    "--partition", default="iid", show_default=True, help="iid, dirichlet:0.5, shards:2, classes:2, skewed:0.8."
)
@click.option("--strategy", default="fedavg", show_default=True, help="By its name; a wrong one lists them all.")
@click.option("--proximal-mu", help="Of fedprox. [default: 0.01]")
@click.option("--alpha", help="Of feddyn. [default: 0.1]")
@click.option("--server-rate", help="Of the server's step, such as 1/50. [default: the strategy's]")
@click.option("--optimizer", help="One of torch's, by its name. [default: the strategy's]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the forward pass. [default: float32]")
@click.option("--accumulation", type=click.IntRange(1), help="Parts that a batch's gradient is summed up from.")
@click.option("--judging", type=click.Choice(list(RULE_PARAMETERS)), help="By what validators choose.")
@click.option("--num-malicious-clients", type=click.IntRange(0), help="That the rule of validators bears.")
@click.option("--contribution", type=click.Choice(list(CONTRIBUTION_PARAMETERS)), help="What scores follow.")
@click.option("--clients-per-round", type=click.IntRange(1), help="Drawn anew for each round. [default: all]")
@click.option("--selection", type=click.Choice(SELECTIONS), help="By what they are drawn. [default: uniform]")
@click.option("--compression", type=click.Choice(COMPRESSIONS), help="Of updates. [default: the strategy's]")
@click.option("--keep", help="Of topk: the share of values that is sent, such as 0.01.")
@click.option("--validators", type=click.IntRange(0, 16), default=0, show_default=True, help="0: all count in full.")
@click.option("--rounds", type=click.IntRange(1), help="[default: the preset's]")
@click.option("--steps", type=click.IntRange(1), help="Local steps a round. [default: the preset's]")
@click.option("--batch-size", type=click.IntRange(1), help="[default: the preset's]")
@click.option("--learning-rate", help="[default: the preset's]")
@click.option("--momentum", help="Of local training. [default: the preset's]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, weights and training.")
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="The result is the same.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results; the same command goes on there.")
@click.option("--task-file", type=click.Path(path_type=Path), help="Also write the experiment as a task file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def simulate(
    preset: str,
    data_dir: Path | None,
    clients: int | None,
    partition: str,
    strategy: str,
    validators: int,
    rounds: int | None,
    steps: int | None,
    batch_size: int | None,
    learning_rate: str | None,
    momentum: str | None,
    seed: int,
    processes: int,
    out: Path | None,
    task_file: Path | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Try a strategy without a chain, with the code and the integers that a task's participants use.

    With --out the folder keeps metrics.jsonl, metrics.csv, report.json, pictures and model.safetensors.
    """
    from chainfl.simulation.simulate import simulate as run
    from chainfl.storage.files import writing

    found = PRESETS[preset]
    chosen = _strategy(found, strategy, {name: value for name, value in changes.items() if value is not None})
    is_sgd = chosen.optimizer == "sgd"  # whose rate and momentum presets have
    result = run(
        found.model,
        found.dataset,
        clients=clients,
        strategy=chosen,
        partition=partition,
        rounds=rounds or found.rounds,
        steps=steps or found.steps,
        batch_size=batch_size or found.batch_size,
        learning_rate=learning_rate or (found.learning_rate if is_sgd else None),
        momentum=momentum or (found.momentum if is_sgd else None),
        weight_decay=found.weight_decay,
        validators=validators,
        model_params=found.model_params,
        data_dir=data_dir,
        seed=seed,
        out=out,
        processes=processes,
    )
    if task_file is not None:
        with writing(task_file.parent):
            task_file.write_text(result.task_file(), encoding="utf-8")
    if as_json:
        show_json(plain(result.to_json()))
    else:
        _tell(result)


def _strategy(preset: Preset, name: str, changes: Mapping[str, Any]) -> Strategy:
    """The one of that name in the preset's integers, and at the preset's server rate where it has none of its own."""
    from chainfl.simulation.strategy import Strategy

    own = Strategy.named(name)
    scales = {"model_scale_bits": preset.model_scale_bits, "update_scale_bits": preset.update_scale_bits}
    has_rate = own.server_rate is not None or own.server is not None
    rate = {} if has_rate else {"server_rate": f"{preset.server_step_num}/{preset.server_step_den}"}
    return Strategy.named(name, **{**scales, **rate, **changes})


def _tell(result: Simulation) -> None:
    show_table(
        ["round", "accuracy", "loss", "worst decile", "accepted", "sent"],
        [
            (
                metrics.round,
                f"{100 * metrics.accuracy:.1f}%",
                "not finite" if metrics.loss is None else f"{metrics.loss:.3f}",
                f"{100 * metrics.local.worst_decile:.1f}%",
                f"{metrics.accepted}/{metrics.clients}",
                f"{metrics.bytes_up:,} bytes",
            )
            for metrics in result.rounds
        ],
    )
    show()
    show_facts([("test set", result.experiment.split.test_origin), ("root", result.root)])
    if result.folder is not None:
        show(f"Everything is in {result.folder}: metrics.jsonl, metrics.csv, report.json, pictures, model.safetensors.")
