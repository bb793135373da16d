"""The contribution methods that a task may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chainfl.tasks.spec import ValidationEntry
from chainfl.tasks.validation_rules import CONTRIBUTION_PARAMETERS
from chainfl.validation.contribution.gtg_shapley import GtgShapley
from chainfl.validation.contribution.leave_one_out import LeaveOneOut
from chainfl.validation.contribution.method import ContributionMethod
from chainfl.validation.contribution.shapley import ExactShapley
from chainfl.validation.parameters import chosen_parameters

CONTRIBUTIONS: Mapping[str, Callable[..., ContributionMethod]] = {
    "leave_one_out": LeaveOneOut,
    "shapley": ExactShapley,
    "gtg_shapley": GtgShapley,
}
"""By the name in a specification; each takes its parameters by name."""


def contribution_of(entry: ValidationEntry) -> ContributionMethod:
    """What a specification names. Raises SpecificationError for parameters that are out of range."""
    name = entry.contribution
    return CONTRIBUTIONS[name](**chosen_parameters(entry, CONTRIBUTION_PARAMETERS[name]))
