"""Attention mechanisms, one file per paper or concept."""

from normviz.attention._feature_maps import orthogonal_projection
from normviz.attention.nalaformer import (
    NaLaFormer,
    NaLaFormerBlock,
    NormAwareFeatureMap,
    NormAwareLinearAttention,
    apply_rotary,
    attention_weights,
    feature_weights,
    focused_linear_attention,
    linear_attention,
    norm_aware_linear_attention,
    performer_attention,
    pola_linear_attention,
    positive_sequence_entropy,
    rope_1d,
    rope_2d,
)

__all__ = [
    "NaLaFormer",
    "NaLaFormerBlock",
    "NormAwareFeatureMap",
    "NormAwareLinearAttention",
    "apply_rotary",
    "attention_weights",
    "feature_weights",
    "focused_linear_attention",
    "linear_attention",
    "norm_aware_linear_attention",
    "orthogonal_projection",
    "performer_attention",
    "pola_linear_attention",
    "positive_sequence_entropy",
    "rope_1d",
    "rope_2d",
]
