"""Which settings of validation go together. Pure: a requester hears of a contradiction before its task exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from chainfl.tasks.state import Format, Rule

if TYPE_CHECKING:
    from chainfl.tasks.spec import ValidationEntry

RULE_PARAMETERS: Mapping[str, frozenset[str]] = {
    "gate_clip": frozenset({"gate_cosine"}),
    "root_fit": frozenset({"gate_cosine", "duplicate_cosine"}),
    "krum": frozenset({"num_malicious_clients"}),
    "multi_krum": frozenset({"num_malicious_clients", "num_clients_to_keep"}),
    "bulyan": frozenset({"num_malicious_clients"}),
    "rfa": frozenset({"iterations", "smoothing"}),
    "centred_clipping": frozenset({"clipping_norm", "iterations"}),
    "fltrust": frozenset(),
    "norm_bound": frozenset({"clipping_norm"}),
}
"""Each selection rule with the parameters that it takes."""

MIXER_PARAMETERS: Mapping[str, frozenset[str]] = {
    "bucketing": frozenset({"bucket_size"}),
    "nearest_neighbour_mixing": frozenset({"num_malicious_clients"}),
}
"""The same for what may come before a rule."""

CONTRIBUTION_PARAMETERS: Mapping[str, frozenset[str]] = {
    "leave_one_out": frozenset(),
    "shapley": frozenset(),
    "gtg_shapley": frozenset({"between_round_truncation", "within_round_truncation", "max_sweeps"}),
}
"""The same for what scores follow."""

MAX_EXACT_PLAYERS = 8
"""Exact Shapley values take 2^n losses a round."""

_ALWAYS_THERE = frozenset({"gate_cosine", "duplicate_cosine"})
_REQUIRED = frozenset({"num_malicious_clients", "bucket_size"})
_ABOVE_ZERO = ("clipping_norm", "smoothing")
_BELOW_ONE = ("between_round_truncation", "within_round_truncation")


def validation_problems(entry: ValidationEntry, form: Format, max_workers: int) -> Iterator[str]:
    """Everything about the validation entry that its types alone do not catch, each as one line."""
    if len(set(entry.before)) != len(entry.before):
        yield "validation.before names a step twice"
    yield from _parameter_problems(entry)
    for name in _ABOVE_ZERO:
        if (value := getattr(entry, name)) is not None and Decimal(value) == 0:
            yield f"validation.{name} is zero"
    for name in _BELOW_ONE:
        if (value := getattr(entry, name)) is not None and Decimal(value) >= 1:
            yield f"validation.{name} is not below 1"
    if entry.num_malicious_clients is not None:
        yield from _count_problems(entry, entry.num_malicious_clients, max_workers)
    if entry.rule == "bulyan":
        yield from _bulyan_problems(entry.num_malicious_clients or 0, form, max_workers)
    if entry.contribution == "shapley" and max_workers > MAX_EXACT_PLAYERS:
        yield f"validation.contribution shapley bears {MAX_EXACT_PLAYERS} workers, not {max_workers}; use gtg_shapley"


def _parameter_problems(entry: ValidationEntry) -> Iterator[str]:
    named = [RULE_PARAMETERS[entry.rule], CONTRIBUTION_PARAMETERS[entry.contribution]]
    takes = frozenset[str]().union(*named, *(MIXER_PARAMETERS[step] for step in entry.before))
    known = frozenset[str]().union(
        *RULE_PARAMETERS.values(), *MIXER_PARAMETERS.values(), *CONTRIBUTION_PARAMETERS.values()
    )
    chosen = ", ".join([*entry.before, entry.rule, entry.contribution])
    for name in sorted(known - _ALWAYS_THERE):
        given = getattr(entry, name) is not None
        if given and name not in takes:
            yield f"validation.{name} is no parameter of {chosen}"
        if not given and name in takes & _REQUIRED:
            yield f"validation.{name} is missing: {chosen} needs it"


def _count_problems(entry: ValidationEntry, num_malicious: int, max_workers: int) -> Iterator[str]:
    """Where no round could ever meet the condition under which a rule is proven."""
    if "nearest_neighbour_mixing" in entry.before and max_workers <= 2 * num_malicious:
        yield f"nearest_neighbour_mixing against {num_malicious} needs {2 * num_malicious + 1} workers"
    seen = max_workers
    if entry.bucket_size is not None and "bucketing" in entry.before:
        seen = -(-max_workers // entry.bucket_size)
    needed = {"krum": 2 * num_malicious + 3, "multi_krum": 2 * num_malicious + 3, "bulyan": 4 * num_malicious + 3}
    if seen < needed.get(entry.rule, 0):
        what = "buckets" if seen != max_workers else "workers"
        yield f"{entry.rule} against {num_malicious} needs {needed[entry.rule]} {what}, the task has {seen} at most"
    if entry.num_clients_to_keep is not None and entry.num_clients_to_keep > seen:
        yield f"validation.num_clients_to_keep is {entry.num_clients_to_keep}, of {seen} at most"


def _bulyan_problems(num_malicious: int, form: Format, max_workers: int) -> Iterator[str]:
    """Its second half is the task's own rule."""
    if form.rule is Rule.MEDIAN:
        return
    kept = max_workers - 2 * num_malicious
    if form.rule is not Rule.TRIMMED_MEAN or form.trim_den < 1:
        yield "validation.rule bulyan needs format.rule trimmed_mean or median: selection alone is half of it"
    elif kept * form.trim_num // form.trim_den < num_malicious:
        yield (
            f"validation.rule bulyan needs a trimmed mean that drops {num_malicious} of {kept} at each end, "
            f"{form.trim_num}/{form.trim_den} drops {kept * form.trim_num // form.trim_den}"
        )
