"""Learning-rate and batch-size schedules, one file per paper or concept."""

from normviz.schedules.effective_lr import ImplicitScheduleReplay, MatchedEffectiveLR, per_tensor_groups

__all__ = ["ImplicitScheduleReplay", "MatchedEffectiveLR", "per_tensor_groups"]
