"""FLTrust: trust by the cosine with what the validator's own data ask for.

Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, NDSS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chainfl.aggregation.server_step import MAX_WEIGHT
from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.rule import WithRootData


@dataclass(frozen=True, slots=True)
class FLTrust(WithRootData):
    """relu(cosine with the root update) * min(1, root norm / norm), as a share of 10,000.

    It depends on root data, so each validator's weights are its own, and the contract takes their medians. The paper
    gives every update the root update's length. Here longer ones lose theirs, and shorter ones stay as they are: the
    mean rule divides by all weights, and a tiny update with a huge weight would stop the model. The mean under these
    weights points where FLTrust's does when no update is shorter than the root update; its length is divided by the
    sum of the weights, not by that of the trust scores. A root update of zero trusts nobody less: then norms alone
    weigh, as in gate and clip.
    """

    def weigh(self, candidates: Candidates) -> list[int]:
        """0 for a cosine that is not positive, at least 1 for one that is."""
        cosines = candidates.cosines_with(candidates.root)
        if cosines is None or candidates.root is None:
            return list(candidates.clipped)
        root_norm = math.sqrt(candidates.root.square) * 2.0**candidates.scale_bits * candidates.divisor
        norms = [math.sqrt(square) for square in candidates.gram.diagonal().tolist()]
        return [_weight(float(cosine), root_norm, norm) for cosine, norm in zip(cosines, norms, strict=True)]


def _weight(cosine: float, root_norm: float, norm: float) -> int:
    if not cosine > 0:
        return 0
    return max(1, round(MAX_WEIGHT * min(1.0, cosine) * min(1.0, root_norm / norm)))
