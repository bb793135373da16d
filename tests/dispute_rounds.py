"""A small round with everything that disputes need, honest or not, for unit and differential tests alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from eth_hash.auto import keccak

from chainfl.aggregation.rules import WeightedSource
from chainfl.disputes.faults import Vectors
from chainfl.disputes.openings import CommittedVector
from chainfl.disputes.proofs import Evidence
from chainfl.encoding.chunk_tree import Level, Tree, VectorKind, vector_root
from chainfl.encoding.sources import as_source
from chainfl.registry.replay import ReplayedRound, replay_round
from chainfl.tasks.state import Format, Rule, ServerKind

FORMAT = Format(
    num_params=150,
    chunk_params=16,
    model_scale_bits=20,
    update_scale_bits=14,
    step_num=1,
    step_den=1,
    max_squared_norm=2**63,
)
MOMENTUM: Mapping[str, Any] = {"server": ServerKind.MOMENTUM, "momentum_num": 9, "momentum_den": 10}
SERVERS: Mapping[str, Mapping[str, Any]] = {
    "momentum": MOMENTUM,
    "nesterov": {**MOMENTUM, "server": ServerKind.NESTEROV},
    "adagrad": {"server": ServerKind.ADAGRAD, "momentum_num": 0, "momentum_den": 1, "tau": 16_777, "step_den": 10},
    "adam": {**MOMENTUM, "server": ServerKind.ADAM, "second_num": 99, "second_den": 100, "tau": 1, "step_den": 10},
    "yogi": {**MOMENTUM, "server": ServerKind.YOGI, "second_num": 1, "second_den": 2, "tau": 16_777, "step_den": 10},
}
_TRIMMED: Mapping[str, Any] = {"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 5}
FORMATS = {
    "mean": FORMAT,
    "groups": replace(FORMAT, group_size=2),
    "trimmed mean": replace(FORMAT, **_TRIMMED),
    "median": replace(FORMAT, rule=Rule.MEDIAN),
    **{f"mean, {name}": replace(FORMAT, **server) for name, server in SERVERS.items()},
    "groups, momentum": replace(FORMAT, group_size=2, **{**MOMENTUM, "momentum_num": 1, "momentum_den": 2}),
    "groups, adam": replace(FORMAT, group_size=2, **SERVERS["adam"]),
    "trimmed mean, momentum": replace(FORMAT, **_TRIMMED, **MOMENTUM),
    "trimmed mean, adagrad": replace(FORMAT, **_TRIMMED, **SERVERS["adagrad"]),
    "median, momentum": replace(FORMAT, rule=Rule.MEDIAN, **MOMENTUM),
    "median, yogi": replace(FORMAT, rule=Rule.MEDIAN, **SERVERS["yogi"]),
}
WEIGHTS = (10_000, 1, 9_999, 3_333, 5_000)


@dataclass(frozen=True)
class Round:
    """updates: (n, P) int16, all accepted. The claimed vectors are the honest ones unless they were replaced."""

    form: Format
    model: np.ndarray
    state: np.ndarray | None
    updates: np.ndarray
    weights: tuple[int, ...]
    claimed_model: np.ndarray
    claimed_state: np.ndarray | None
    claimed_groups: tuple[np.ndarray, ...]

    @classmethod
    def random(cls, form: Format, seed: int = 0) -> Round:
        rng = np.random.default_rng(seed)
        updates = rng.integers(-32767, 32768, (len(WEIGHTS), form.num_params)).astype(np.int16)
        updates[:, ::3] = rng.integers(-1, 2, updates[:, ::3].shape)  # ties
        model = rng.integers(-(2**31), 2**31, form.num_params).astype(np.int32)
        state = rng.integers(-(2**24), 2**24, form.state_params).astype(np.int32) if form.has_state else None
        played = replay_round(model, list(zip(updates, WEIGHTS, strict=True)), form, state=state)
        groups = [
            sum(updates[i].astype(np.int64) * WEIGHTS[i] for i in range(at, min(at + form.group_size, len(WEIGHTS))))
            for at in range(0, len(WEIGHTS), form.group_size)
        ]
        claimed_groups = tuple(groups) if form.num_groups(len(WEIGHTS)) else ()
        return cls(form, model, state, updates, WEIGHTS, played.model, played.state, claimed_groups)

    @property
    def replayed(self) -> ReplayedRound:
        """What the round honestly gives."""
        return replay_round(self.model, list(zip(self.updates, self.weights, strict=True)), self.form, state=self.state)

    @property
    def sources(self) -> list[WeightedSource]:
        return [WeightedSource(as_source(u), w) for u, w in zip(self.updates, self.weights, strict=True)]

    @property
    def before(self) -> Vectors:
        return Vectors(as_source(self.model), None if self.state is None else as_source(self.state))

    @property
    def claimed(self) -> Vectors:
        state = None if self.claimed_state is None else as_source(self.claimed_state)
        return Vectors(as_source(self.claimed_model), state, tuple(map(as_source, self.claimed_groups)))

    def root(self, values: np.ndarray, kind: VectorKind) -> bytes:
        return vector_root(values, self.form.chunk_params, kind)

    @cached_property
    def update_roots(self) -> list[bytes]:
        return [self.root(update, VectorKind.UPDATE) for update in self.updates]

    @cached_property
    def group_roots(self) -> tuple[bytes, ...]:
        return tuple(self.root(group, VectorKind.GROUP_SUM) for group in self.claimed_groups)

    @cached_property
    def evidence(self) -> Evidence:
        def of(values, kind):
            return None if values is None else CommittedVector.of(values, self.form, kind)

        updates = [of(update, VectorKind.UPDATE) for update in self.updates]
        return Evidence(
            form=self.form,
            model=of(self.model, VectorKind.MODEL),
            state=of(self.state, VectorKind.STATE),
            claimed_model=of(self.claimed_model, VectorKind.MODEL),
            claimed_state=of(self.claimed_state, VectorKind.STATE),
            updates=list(zip(updates, self.weights, strict=True)),
            group_roots=self.group_roots,
            claimed_groups=tuple(of(group, VectorKind.GROUP_SUM) for group in self.claimed_groups),
        )

    @cached_property
    def accepted_hashes(self) -> list[bytes]:
        """What the tally chains the accepted updates of each group to."""
        hashes = []
        for position, (root, weight) in enumerate(zip(self.update_roots, self.weights, strict=True)):
            if position % self.form.group_size == 0:
                hashes.append(bytes(32))
            hashes[-1] = keccak(hashes[-1] + root + weight.to_bytes(2, "big"))
        return hashes

    def lying(self, what: str, coordinate: int, by: int = 1) -> Round:
        """The same round with one wrong value, by its place in a vector. what: `model`, `state`, or `group K`."""
        if what.startswith("group"):
            groups = [group.copy() for group in self.claimed_groups]
            groups[int(what.split()[1])][coordinate] += by
            return replace(self, claimed_groups=tuple(groups))
        values = getattr(self, f"claimed_{what}").copy()
        values[coordinate] ^= by
        return replace(self, **{f"claimed_{what}": values})


def lying_vector(values: np.ndarray, form: Format, lies: Mapping[tuple[int, int], int]) -> CommittedVector:
    """An update whose tree is off at some nodes, (height, index) → by how much, and adds that up above them."""
    tree = CommittedVector.of(values, form, VectorKind.UPDATE)
    levels = [Level(level.digests.copy(), level.sums.copy()) for level in tree.tree.levels]
    shape = tree.tree.shape
    for height in range(shape.depth + 1):
        below = Tree(shape, tuple(levels))
        for place in range(len(levels[height].digests)):
            if height > 0:
                pair = [below.node(height - 1, 2 * place + side) for side in (0, 1)]
                preimage = b"\x02" + b"".join(digest + total.to_bytes(8, "big") for digest, total in pair)
                levels[height].digests[place] = np.frombuffer(hashlib.sha256(preimage).digest(), np.uint8)
                levels[height].sums[place] = sum(total for _, total in pair)
            levels[height].sums[place] = int(levels[height].sums[place]) + lies.get((height, place), 0)
    return CommittedVector(tree.source, Tree(shape, tuple(levels)))
