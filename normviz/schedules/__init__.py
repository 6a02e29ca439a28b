"""Learning-rate and batch-size schedules, one file per paper or concept."""

from normviz.schedules.effective_lr import ImplicitScheduleReplay, MatchedEffectiveLR, per_tensor_groups
from normviz.schedules.gradient_norms import GradientNormRecorder
from normviz.schedules.last_iterate import (
    last_iterate_bound,
    last_iterate_conversion,
    optimize_schedule_bound,
    theory_learning_rates,
)
from normviz.schedules.multiplier_lr import (
    InverseSqrtLR,
    InverseTimeLR,
    LinearDecayLR,
    RefinedScheduleLR,
    WarmupPolynomialLR,
)
from normviz.schedules.refined_schedule import (
    refine_from_norms,
    refine_schedule,
    refinement_weights,
    smooth_gradient_norms,
)
from normviz.schedules.scheduled_iterates import ScheduledIterates

__all__ = [
    "GradientNormRecorder",
    "ImplicitScheduleReplay",
    "InverseSqrtLR",
    "InverseTimeLR",
    "LinearDecayLR",
    "MatchedEffectiveLR",
    "RefinedScheduleLR",
    "ScheduledIterates",
    "WarmupPolynomialLR",
    "last_iterate_bound",
    "last_iterate_conversion",
    "optimize_schedule_bound",
    "per_tensor_groups",
    "refine_from_norms",
    "refine_schedule",
    "refinement_weights",
    "smooth_gradient_norms",
    "theory_learning_rates",
]
