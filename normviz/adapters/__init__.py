"""Adapters, one file per paper or concept."""

from normviz.adapters.attention_gradients import LoRAAttentionGradients, LoRAWeight, lora_attention_gradients
from normviz.adapters.corda import (
    ContextSVD,
    CovarianceCollector,
    LoRALinear,
    apply_corda,
    context_energy,
    context_oriented_svd,
    corda_init,
    damped_covariance,
    lora_init,
    pissa_init,
    truncated_reconstruction,
)
from normviz.adapters.exp_polynomial import exp_polynomial, polynomial_relative_error, required_degree
from normviz.adapters.lora_attention import LoRAAttention
from normviz.adapters.lora_limits import (
    DegreeFit,
    critical_radius,
    fit_degree,
    gradient_error_bound,
    norm_report,
)
from normviz.adapters.lowrank_attention import LowRankAttentionFunction
from normviz.adapters.monomial_features import (
    MonomialFeatureMap,
    feature_rank,
    lowrank_attention_factors,
    row_khatri_rao,
)

__all__ = [
    "ContextSVD",
    "CovarianceCollector",
    "DegreeFit",
    "LoRAAttention",
    "LoRAAttentionGradients",
    "LoRALinear",
    "LoRAWeight",
    "LowRankAttentionFunction",
    "MonomialFeatureMap",
    "apply_corda",
    "context_energy",
    "context_oriented_svd",
    "corda_init",
    "critical_radius",
    "damped_covariance",
    "exp_polynomial",
    "feature_rank",
    "fit_degree",
    "gradient_error_bound",
    "lora_attention_gradients",
    "lora_init",
    "lowrank_attention_factors",
    "norm_report",
    "pissa_init",
    "polynomial_relative_error",
    "required_degree",
    "row_khatri_rao",
    "truncated_reconstruction",
]
