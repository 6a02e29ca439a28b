"""Sample reweighting and reward normalization, one file per paper or concept."""

from normviz.weighting.bnpo import (
    BNPO,
    BNPOResult,
    beta_moments,
    bnpo_advantage,
    bnpo_advantage_from_index,
    bnpo_parameters,
    clipped_policy_loss,
    decomposed_advantage,
    gradient_second_moment,
    group_advantage,
)

__all__ = [
    "BNPO",
    "BNPOResult",
    "beta_moments",
    "bnpo_advantage",
    "bnpo_advantage_from_index",
    "bnpo_parameters",
    "clipped_policy_loss",
    "decomposed_advantage",
    "gradient_second_moment",
    "group_advantage",
]
