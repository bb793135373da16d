"""Gate and clip, the default: does it point where my own data point, and is it no longer than usual?

The gate is the sign test of FLTrust (Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust
Bootstrapping, NDSS 2021); the clip is norm thresholding (Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor
Federated Learning?, 2019) at the median.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.rule import WithRootData


@dataclass(frozen=True, slots=True)
class GateClip(WithRootData):
    """Weight 0 unless the cosine with the root update is above `gate_cosine`; else the clip's weight.

    The gate depends on root data, so validators may differ in whom they reject. The clip's weights do not: they follow
    from the sums revealed on chain. A root update of zero says nothing, so it stops nobody.
    """

    gate_cosine: float = 0.0

    def weigh(self, candidates: Candidates) -> list[int]:
        """The clip's weights behind the gate. Each then pulls by no more than an update of the median norm."""
        cosines = candidates.cosines_with(candidates.root)
        if cosines is None:
            return list(candidates.clipped)
        return [weight if cosines[i] > self.gate_cosine else 0 for i, weight in enumerate(candidates.clipped)]
