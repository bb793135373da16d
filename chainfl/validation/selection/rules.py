"""The selection rules that a task may name, and how one becomes weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from chainfl.tasks.spec import ValidationEntry
from chainfl.tasks.validation_rules import MIXER_PARAMETERS, RULE_PARAMETERS
from chainfl.validation.parameters import chosen_parameters
from chainfl.validation.selection.bucketing import Bucketing
from chainfl.validation.selection.bulyan import Bulyan
from chainfl.validation.selection.candidates import Candidates, scaled
from chainfl.validation.selection.centred_clipping import CentredClipping
from chainfl.validation.selection.fltrust import FLTrust
from chainfl.validation.selection.gate_clip import GateClip
from chainfl.validation.selection.krum import Krum
from chainfl.validation.selection.multi_krum import MultiKrum
from chainfl.validation.selection.nearest_neighbour_mixing import NearestNeighbourMixing
from chainfl.validation.selection.norm_bound import NormBound
from chainfl.validation.selection.rfa import GeometricMedian
from chainfl.validation.selection.root_fit import RootFit
from chainfl.validation.selection.rule import Mixer, SelectionRule

RULES: Mapping[str, Callable[..., SelectionRule]] = {
    "gate_clip": GateClip,
    "root_fit": RootFit,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "rfa": GeometricMedian,
    "centred_clipping": CentredClipping,
    "fltrust": FLTrust,
    "norm_bound": NormBound,
}
"""By the name in a specification; each takes its parameters by name."""

MIXERS: Mapping[str, Callable[..., Mixer]] = {
    "bucketing": Bucketing,
    "nearest_neighbour_mixing": NearestNeighbourMixing,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A rule, and what mixes the updates before it, in order."""

    rule: SelectionRule
    mixers: tuple[Mixer, ...] = ()

    def weigh(self, candidates: Candidates, seed: bytes) -> list[int]:
        """A weight for each update. seed: as mixers take it.

        A mixed vector is a mean of updates, so a weighted mean of mixed vectors is one of updates: w = M^T v. Those
        weights are scaled to 10,000 for the largest, and rounded. Under an order rule on chain (median, trimmed mean)
        it only matters who has a weight at all.
        """
        if not len(candidates):
            return []
        mixings = []
        for mixer in self.mixers:
            mixings.append(mixer.mix(candidates, seed))
            candidates = candidates.mixed(mixings[-1])
        weights = self.rule.weigh(candidates)
        if not mixings:
            return weights
        pulled = np.array(weights, object)
        for mixing in reversed(mixings):
            pulled = mixing.matrix.T.astype(object) @ pulled
        return scaled(pulled.tolist())


def selection_of(entry: ValidationEntry) -> Selection:
    """What a specification names. Raises SpecificationError for parameters that are out of range."""
    mixers = [MIXERS[name](**chosen_parameters(entry, MIXER_PARAMETERS[name])) for name in entry.before]
    return Selection(RULES[entry.rule](**chosen_parameters(entry, RULE_PARAMETERS[entry.rule])), tuple(mixers))
