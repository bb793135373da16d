"""The words that people say a strategy's settings in, Flower's among them, and the fields that they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from chainfl.errors import UsageError
from chainfl.tasks.spec import ValidationEntry
from chainfl.tasks.training_rules import ALGORITHM_PARAMETERS
from chainfl.tasks.validation_rules import CONTRIBUTION_PARAMETERS, MIXER_PARAMETERS, RULE_PARAMETERS

LOCAL: Final = ("steps", "batch_size", "learning_rate", "momentum", "weight_decay", "local_epochs")
"""Of local training, what `simulate` is told beside the strategy."""

IN_EITHER: Final = frozenset({"weight_decay", "local_epochs"})
"""Of these, what a strategy may say in its place."""

FLOWER_NAMES: Final[Mapping[str, str]] = {
    "eta": "server_rate",
    "server_learning_rate": "server_rate",
    "beta_1": "server_momentum",
    "beta_2": "server_second",
    "tau": "server_tau",
    "beta": "trim",
    "num_malicious_nodes": "num_malicious_clients",
    "num_nodes_to_select": "num_clients_to_keep",
}
OF_SIMULATE: Final[Mapping[str, str]] = {"eta_l": "learning_rate", "initial_parameters": "model"}
"""What Flower says in a strategy and `simulate` beside it, by our names."""

_OF_NUMBERS: Final = ("min_train_nodes", "min_fit_clients", "min_available_nodes", "min_available_clients")
_OF_MEASURING: Final = (
    *("fraction_evaluate", "min_evaluate_nodes", "min_evaluate_clients", "evaluate_fn"),
    *("train_metrics_aggr_fn", "fit_metrics_aggregation_fn"),
    *("evaluate_metrics_aggr_fn", "evaluate_metrics_aggregation_fn"),
)
NOT_NEEDED: Final[Mapping[tuple[str, ...], str]] = {
    _OF_NUMBERS: "nobody is missing in an experiment; leave it out, or say how many a round draws: clients_per_round=5",
    _OF_MEASURING: "each round is measured on the test set and on every client's data; leave it out, "
    "and read the result's `rounds`, or give simulate(…, callbacks=[…])",
    ("weighted_by_key",): "nobody can check numbers of examples, so updates count alike; leave it out",
}
"""Further words of Flower's, and what to do instead."""

_WITH_RULE: Final = {"mean": "fedavg", "median": "fedmedian", "trimmedmean": "fedtrimmedavg"}
"""The strategies that a rule of the server is taken for, by its plain name."""

_SHARES: Final = ("fraction_fit", "fraction_train")
_SPELLINGS: Final = {"centeredclipping": "centredclipping"}
_ANY_TRAINING: Final = frozenset({"optimizer", "precision", "accumulation", *IN_EITHER})
_ANY_JUDGING: Final = frozenset({"before", "contribution", "duplicate_cosine"})


def plain(name: str) -> str:
    """Of a strategy's name what counts: `MultiKrum`, `multi_krum` and `multi-krum` are one."""
    found = "".join(letter for letter in name.lower() if letter.isalnum())
    return _SPELLINGS.get(found, found)


def rule_told(name: str) -> str:
    """Which strategy is meant where a rule's name stands for one; empty for other names."""
    found = _WITH_RULE.get(plain(name))
    return "" if found is None else f": that is a rule, and the strategy with it is {found}"


def judged_by(rule: str) -> dict[str, Any]:
    """Validators who choose by a rule, against one attacker where it asks for a number."""
    counts = {"num_malicious_clients": 1} if "num_malicious_clients" in RULE_PARAMETERS.get(rule, ()) else {}
    return {"rule": rule, **counts}


def placed(base: Mapping[str, Any], called: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Strategy` that change, from settings by our names or by Flower's.

    base: all fields by name, as they are. called: the strategy's name, for errors. judging may be a rule's name, before
    the name of one step. Raises UsageError for two words on one thing, and for a word that means nothing here.
    """
    ours = _in_our_words(called, said)
    own = {name: value for name, value in ours.items() if name in base}
    other = {name: value for name, value in ours.items() if name not in base}
    judging = own.get("judging", base["judging"])
    judging = judged_by(judging) if isinstance(judging, str) else _mapping("judging", judging)
    judging |= _once("judging", own, {name: _steps(other[name]) for name in other if name in _of_judging()})
    parameters = _mapping("parameters", own.get("parameters", base["parameters"]))
    parameters |= _once("parameters", own, {name: other[name] for name in other if name in _of_training()})
    takes = {**base, **own, "parameters": parameters, "judging": judging}
    if unknown := [name for name in other if name not in _taken(takes)]:
        raise UsageError(_refusal(called, unknown, takes), unknown=unknown)
    changed = {"parameters": parameters, "judging": judging}
    return {**own, **{name: value for name, value in changed.items() if value != base[name]}}


def _in_our_words(called: str, said: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, value in said.items():
        if word in _SHARES:
            if value != 1:
                raise UsageError(
                    f"{word} is {value!r}, of a number of clients that a strategy does not know: say how many a round "
                    "draws, such as clients_per_round=5 for a half of 10; without it all take part"
                )
            continue
        name = FLOWER_NAMES.get(word, word)
        if name in found:
            raise UsageError(f"{called} is told {name} twice, once by another name: leave one out")
        found[name] = value
    return found


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is {value!r}, not a mapping of settings by their names")
    return dict(value)


def _steps(value: Any) -> Any:
    """A single step before the rule may be said without a list."""
    return [value] if isinstance(value, str) and value in MIXER_PARAMETERS else value


def _once(where: str, own: Mapping[str, Any], flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings said by themselves, none of which may be in the mapping that was said too."""
    inside = own.get(where, {})
    if twice := sorted(set(flat) & set(inside if isinstance(inside, Mapping) else ())):
        raise UsageError(f"{', '.join(twice)}: said by itself and in {where}; leave one out")
    return flat


def _of_training() -> frozenset[str]:
    return _ANY_TRAINING.union(*ALGORITHM_PARAMETERS.values())


def _of_judging() -> frozenset[str]:
    every = (RULE_PARAMETERS, MIXER_PARAMETERS, CONTRIBUTION_PARAMETERS)
    return _ANY_JUDGING.union(*(names for table in every for names in table.values()))


def _taken(settings: Mapping[str, Any]) -> set[str]:
    """What a strategy with these fields may be told."""
    judging, before = settings["judging"], settings["judging"].get("before", ())
    parts = [
        _parameters(ALGORITHM_PARAMETERS, settings["algorithm"]),
        _parameters(RULE_PARAMETERS, judging.get("rule", ValidationEntry().rule)),
        _parameters(CONTRIBUTION_PARAMETERS, judging.get("contribution", ValidationEntry().contribution)),
        *(_parameters(MIXER_PARAMETERS, step) for step in (before if isinstance(before, list | tuple) else ())),
    ]
    return {*settings, *_ANY_TRAINING, *_ANY_JUDGING}.union(*parts)


def _parameters(table: Mapping[str, frozenset[str]], name: object) -> frozenset[str]:
    """None for what is no name in it, which is for the task's rules to say."""
    return table.get(name, frozenset()) if isinstance(name, str) else frozenset()


def _refusal(called: str, unknown: list[str], settings: Mapping[str, Any]) -> str:
    takes = _taken(settings)
    flower = [word for word, name in FLOWER_NAMES.items() if name in takes]
    hints = [*(hint for name in unknown for hint in _hints(name)), *_not_needed(unknown)]
    return (
        f"{called} does not take {', '.join(unknown)}{''.join(f'; {hint}' for hint in hints)}; "
        f"it takes {', '.join(sorted(takes))}, and by Flower's names {', '.join(flower)}"
    )


def _hints(name: str) -> Iterator[str]:
    """Where a known name is at home."""
    tables = (ALGORITHM_PARAMETERS, RULE_PARAMETERS, MIXER_PARAMETERS, CONTRIBUTION_PARAMETERS)
    if owners := [owner for table in tables for owner, names in table.items() if name in names]:
        yield f"{name} is of {', '.join(owners)}"
    if name in LOCAL:
        yield f"{name} stands beside the strategy: simulate(…, {name}=…)"
    if (ours := OF_SIMULATE.get(name)) is not None:
        yield f"{name} is simulate's {ours}: simulate(…, {ours}=…)"


def _not_needed(unknown: Sequence[str]) -> Iterator[str]:
    """What to do instead, once for all the words that it is the same for."""
    for names, told in NOT_NEEDED.items():
        if said := [name for name in unknown if name in names]:
            yield f"{', '.join(said)}: {told}"
