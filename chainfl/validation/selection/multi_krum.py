"""Multi-Krum: the mean of the updates that are closest to their neighbours.

Blanchard et al., NeurIPS 2017 (see `krum`). How many may be kept: Damaskinos et al.: AggregaThor: Byzantine Machine
Learning via Robust Gradient Aggregation, MLSys 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.validation.selection.candidates import Candidates
from chainfl.validation.selection.krum import bearable, chosen, krum_scores
from chainfl.validation.selection.rule import UpdatesOnly, require_count


@dataclass(frozen=True, slots=True)
class MultiKrum(UpdatesOnly):
    """The full weight for the `num_clients_to_keep` updates with the lowest Krum scores, 0 for the rest.

    num_malicious_clients: f. num_clients_to_keep: None for n - f - 2, the most for which resilience is proven (with
    n > 2f + 2); more learns faster from honest updates. Equal scores go by the order of the enrolled workers. Where too
    few updates came, f is as large as they allow, and all of them may be kept.
    """

    num_malicious_clients: int = 1
    num_clients_to_keep: int | None = None

    def __post_init__(self) -> None:
        require_count("num_malicious_clients", self.num_malicious_clients, least=0)
        if self.num_clients_to_keep is not None:
            require_count("num_clients_to_keep", self.num_clients_to_keep, least=1)

    def weigh(self, candidates: Candidates) -> list[int]:
        """10,000 for each that is kept."""
        count = len(candidates)
        num_malicious = bearable(count, self.num_malicious_clients)
        scores = krum_scores(candidates.distances(), num_malicious)
        keep = max(1, count - num_malicious - 2) if self.num_clients_to_keep is None else self.num_clients_to_keep
        order = sorted(range(count), key=lambda place: (scores[place], place))
        return chosen(order[:keep], count)
