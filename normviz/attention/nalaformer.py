r"""NaLaFormer: norm-aware linear attention.

Meng, Luo, Huo, Wang, Li, Zhang, arXiv 2506.21137: v1 "NaLaFormer: Norm-Aware Linear Attention for Transformer Models",
2025; v3 "Norm x Direction: Restoring the Missing Query Norm in Vision Linear Attention", ICML 2026. Official code:
ZacharyMeng/NaLaFormer (vision only).

Softmax takes the query's norm as a temperature: a longer query has a sharper row. Linear attention divides by
phi(q) sum_k phi(k), where a homogeneous phi lets the norm cancel. NaLaFormer makes the norm the *exponent* of the
query's direction, and puts the signs into angles, which keep similarities non-negative without clipping half of them
away.

=========================================================================  =========================================
phi_q = |d(q)|^{lam (tau + tanh |q|)} [cos theta(q); sin theta(q)]            ``NormAwareFeatureMap``
o_i = R phi_q KV / (phi_q mean_j phi_k + eps), KV = (1/M) sum R phi_k v^T    ``norm_aware_linear_attention``
the same over j <= t, in chunks or token by token                           ``causal=True``, ``state``
rotary tables R of a grid or a line                                         ``rope_2d``, ``rope_1d``, ``apply_rotary``
proj(LN(o + LePE(v)) * SiLU(g))                                             ``NormAwareLinearAttention``
conv, attention, conv, FFN; four stages                                     ``NaLaFormerBlock``, ``NaLaFormer``
explicit rows of all kernels                                                ``attention_weights``, ``feature_weights``
entropy of a row                                                            ``positive_sequence_entropy``
elu+1, ReLU, Performer, FLatten, PolaFormer                                 ``baselines.py``
=========================================================================  =========================================

Where the sources differ: the paper's cosine form is the default of the functions and layers, the release's sign form
(its limit for steep angles) that of the backbone; either by ``direction``. The release divides by |q| without guard;
here q = 0 gives features and output 0. The published vision code has no causal form; the one here is derived from the
bidirectional form, to which its last row is equal. Head widths and Linear initialisations of the backbone follow the
release, whose last two stages are softmax.
"""

from __future__ import annotations

from normviz.attention._attention_weights import (
    attention_weights,
    feature_weights,
    positive_sequence_entropy,
)
from normviz.attention._feature_maps import NormAwareFeatureMap
from normviz.attention._nalaformer_backbone import NaLaFormer, NaLaFormerBlock
from normviz.attention._nalaformer_layers import NormAwareLinearAttention
from normviz.attention._norm_aware import norm_aware_linear_attention
from normviz.attention._rotary import apply_rotary, rope_1d, rope_2d
from normviz.attention.baselines import (
    focused_linear_attention,
    linear_attention,
    performer_attention,
    pola_linear_attention,
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
    "performer_attention",
    "pola_linear_attention",
    "positive_sequence_entropy",
    "rope_1d",
    "rope_2d",
]
