"""What chain and storage cost beside training: ten rounds of MNIST with four workers, and the same in a plain loop.

    python benchmarks/overhead.py [--json PATH] [--seconds 1,5,30] [--rounds N] [--rule NAME] [--flower 0]
                                  [--data FOLDER]

Three runs of the same local training over the same shares, on the same cores:

- through chain and storage: Anvil, and workers, a validator and an aggregator as processes, as `chainfl demo` starts
  them; from the first round's beginning to the task's end, with every window, dispute time and payout in it;
- the plain loop: as many processes as there are cores train the workers, and float32 is averaged. Nothing else;
- Flower's simulation engine (ray) with its FedAvg, each client on one core, once its processes have started.

They take turns, round by round, since a machine's speed drifts within minutes by more than what is measured here.
Who is not at its turn stands still, and the order changes with every round.

`--seconds`: how long a worker trains in a round on a free core; the steps for it are measured first. The validator
weighs by `norm_bound`, which trains nothing: `--rule gate_clip` adds its own training on root data, which the other
two do not have.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from _overhead_runs import Run, in_flower, module_of, on_chain, plain_loop, training_of
from _report import ROOT, Row, arguments, report

from chainfl.simulation.demo import DemoConfig
from chainfl.tasks.spec import LOCAL_WINDOWS, ValidationEntry
from chainfl.training.datasets import Dataset, load_dataset
from chainfl.training.partition import demo_split
from chainfl.training.presets import Preset
from chainfl.training.trainer import LocalTrainer

WORKERS = 4
TARGET = 1.05
TARGET_SECONDS = 30.0
"""A worker's training in a round, from which on the target holds."""
SLACK_S = 60
TURNS = 6
"""A window is open while the others have two turns each, and then one more, on a machine that may become slower."""
SAMPLE_STEPS = (10, 110)


def configured(folder: Path, data: Path, *, rounds: int, steps: int, seconds: float, rule: str) -> DemoConfig:
    """Windows that bear the training of everybody on one core, and the others' turns; they end when all have done."""
    patience = round(TURNS * WORKERS * seconds) + SLACK_S
    return DemoConfig(
        folder,
        rounds=rounds,
        workers=WORKERS,
        validators=1,
        data="mnist",
        data_dir=data,
        windows=replace(LOCAL_WINDOWS, commit=patience, score_commit=patience),
        steps=steps,
        validation=ValidationEntry.model_validate({"rule": rule}),
    )


def seconds_of_step(share: Dataset, preset: Preset) -> float:
    """On a free core: the median of three differences between a long and a short run, which looks at the data alike."""
    trainer, training = LocalTrainer(module_of(preset)), training_of(preset)

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        trainer.train(trainer.initial_vector, share, replace(training, steps=steps), seed=0)
        return time.perf_counter() - started

    seconds(SAMPLE_STEPS[0])  # what loads lazily loads here
    short, long = SAMPLE_STEPS
    return statistics.median((seconds(long) - seconds(short)) / (long - short) for _ in range(3))


def taking_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Wall seconds of all rounds of each."""
    spent = dict.fromkeys(runs, 0.0)
    for number in range(1, rounds + 1):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            spent[name] += runs[name].play(number)
        print(f"round {number}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items()), flush=True)
    return spent


def measured(seconds: float, rounds: int, rule: str, data: Path, with_flower: bool) -> list[Row]:
    """The rows of one length of training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="chainfl-bench-") as name, ExitStack() as stack:
        trial = configured(Path(name), data, rounds=rounds, steps=1, seconds=seconds, rule=rule)
        # As the stage cuts it.
        split = demo_split(load_dataset("mnist", data), seed=trial.seed, num_workers=WORKERS, num_validators=1)
        steps = max(1, round(seconds / max(1e-4, seconds_of_step(split.workers[0], trial.preset))))
        config = replace(trial, steps=steps)
        runs: dict[str, Run] = {"plain loop": stack.enter_context(plain_loop(split.workers, config.preset, cores))}
        if with_flower:
            runs["Flower"] = stack.enter_context(in_flower(split.workers, config.preset, rounds, cores))
        runs["chain"] = chain = stack.enter_context(on_chain(config))
        return _rows(f"{seconds:g} s of training", seconds, steps, taking_turns(runs, rounds), rounds, chain.before)


def _rows(named: str, seconds: float, steps: int, spent: Mapping[str, float], rounds: int, before: float) -> list[Row]:
    plain, chain, flower = spent["plain loop"], spent["chain"], spent.get("Flower")
    target = TARGET if seconds >= TARGET_SECONDS else None
    rows = [
        Row(f"{named}: beside the plain loop", chain / plain, "times", f"{plain:.1f} s; {steps} steps a round", target),
        Row(f"{named}: {rounds} rounds through chain and storage", chain, "s"),
        Row(f"{named}: a round's overhead", (chain - plain) / rounds, "s"),
        Row(f"{named}: until the first round", before, "s", "deploying, publishing, starting, enrolling"),
    ]
    if flower is not None:
        rows.insert(1, Row(f"{named}: beside Flower", chain / flower, "times", f"{flower:.1f} s", 1.0))
    return rows


def main() -> None:
    options = arguments(
        __doc__ or "",
        seconds=("1,5,30", "of training, a worker and round, with commas"),
        rounds=(10, "rounds"),
        rule=("norm_bound", "how the validator weighs"),
        flower=(1, "0 leaves Flower out"),
        data=(str(ROOT.parent / "shared" / "data" / "mnist"), "folder with MNIST's four files"),
    )
    rows: list[Row] = []
    for seconds in map(float, options.seconds.split(",")):
        print(f"{seconds:g} s of training", flush=True)
        rows += measured(seconds, options.rounds, options.rule, Path(options.data), bool(options.flower))
    report("overhead of chain and storage", rows, options.json, ("torch", "web3", "numpy"))


if __name__ == "__main__":
    main()
