"""What a task says about judging a round."""

from __future__ import annotations

from dataclasses import dataclass, field

from chainfl.aggregation.server_step import ServerStep
from chainfl.tasks.state import Rule
from chainfl.training.settings import LocalTraining
from chainfl.validation.contribution.leave_one_out import LeaveOneOut
from chainfl.validation.contribution.method import ContributionMethod
from chainfl.validation.duplicates import DUPLICATE_COSINE
from chainfl.validation.selection.gate_clip import GateClip
from chainfl.validation.selection.rules import Selection


@dataclass(frozen=True, slots=True)
class RoundRules:
    """The numbers of a round, its aggregation rule and server step, and the local training of every participant.

    server_step: the multiple of the mean update by which a plain server moves the model; 1/1 of an adaptive one.
    shows_mean: whether the model's last step tells what the mean update was; an adaptive server's does not.
    selection: what gives weights. contribution: what gives scores. Updates with a cosine above `duplicate_cosine` share
    one score.
    """

    model_scale_bits: int
    update_scale_bits: int
    server_step: ServerStep
    training: LocalTraining
    duplicate_cosine: float = DUPLICATE_COSINE
    selection: Selection = field(default_factory=lambda: Selection(GateClip()))
    contribution: ContributionMethod = field(default_factory=LeaveOneOut)
    rule: Rule = Rule.MEAN
    trim_num: int = 0
    trim_den: int = 0
    shows_mean: bool = True
