"""Folding an offline norm into the Linear layer beside it: at inference the norm then costs nothing.

A norm whose statistics are frozen in eval (PowerNorm, PowerNormV, UnifiedNorm1d, batch norm) is one
multiply-add per channel, ``norm(x) = scale * x + shift``. So with ``Linear(W, c)``

    norm, then Linear:    W (scale * x + shift) + c  =  W diag(scale) x + (c + W shift)
    Linear, then norm:    scale * (W x + c) + shift  =  diag(scale) W x + (scale * c + shift)

(Shen et al., "PowerNorm: Rethinking Batch Normalization in Transformers", arXiv 2003.07845; Yang et al.,
"Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313; there
``scale = gamma / sqrt(phi + eps)`` and ``shift = beta``.) LayerNorm and its kin compute statistics from the
token itself and cannot be folded.

A norm takes part by having the one method of :class:`FoldableNorm`; nothing here knows any norm by name.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["FoldableNorm", "fuse_into_linear"]


@runtime_checkable
class FoldableNorm(Protocol):
    """A norm that is one multiply-add per channel in eval, at least in some of its configurations.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845; Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv
        2208.01313: scale and shift in the module's docstring.
    """

    def eval_scale_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, both (C,), with ``norm.eval()(x) == x * scale + shift`` on the last axis.

        Raises:
            ValueError: this configuration also does something per token (group scaling): no such pair exists.
        """
        ...


def fuse_into_linear(first: nn.Module, second: nn.Module) -> nn.Linear:
    """One Linear equal to ``second(first(x))`` in eval, of an ``nn.Linear`` and a foldable norm in any order.

    Args:
        first: the layer applied first; an ``nn.Linear`` (with or without bias) or a :class:`FoldableNorm`.
        second: the layer applied to its output; the other one of the two kinds.

    Returns:
        A new ``nn.Linear`` with bias, in dtype and on the device of the given Linear. The arguments stay as
        they are, their training flags included; the new parameters share nothing with the old ones.

    Raises:
        TypeError: the pair is not one ``nn.Linear`` and one foldable norm.
        ValueError: the norm's channels are not the Linear's features on that side, or the norm in this
            configuration cannot be folded (group scaling).

    Example:
        >>> from normviz.norms import PowerNormV
        >>> norm, linear = PowerNormV(8).eval(), torch.nn.Linear(8, 3)
        >>> fused = fuse_into_linear(norm, linear)
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(fused(x), linear(norm(x)), atol=1e-6)
        True
    """
    linear, norm, norm_first = _linear_and_norm(first, second)
    with torch.no_grad():
        scale, shift = norm.eval_scale_shift()
        side = "in_features" if norm_first else "out_features"
        features = getattr(linear, side)
        if scale.shape != (features,):
            raise ValueError(
                f"the norm must have as many channels as the Linear's {side} = {features}, got {len(scale)}."
            )
        kind = torch.promote_types(linear.weight.dtype, scale.dtype)
        W = linear.weight.to(kind)  # (O, I)
        c = W.new_zeros(W.shape[0]) if linear.bias is None else linear.bias.to(kind)
        scale, shift = scale.to(W), shift.to(W)
        weight, bias = (W * scale, c + W @ shift) if norm_first else (scale[:, None] * W, scale * c + shift)
        fused = nn.Linear(linear.in_features, linear.out_features, device="meta")  # draws no random numbers
        fused.weight = nn.Parameter(weight.to(linear.weight.dtype))
        fused.bias = nn.Parameter(bias.to(linear.weight.dtype))
    return fused


def _linear_and_norm(first: nn.Module, second: nn.Module) -> tuple[nn.Linear, FoldableNorm, bool]:
    """The pair sorted by kind, and whether the norm comes first."""
    if isinstance(second, nn.Linear) and isinstance(first, FoldableNorm):
        return second, first, True
    if isinstance(first, nn.Linear) and isinstance(second, FoldableNorm):
        return first, second, False
    raise TypeError(
        "first and second must be one nn.Linear and one norm with frozen statistics (PowerNorm, PowerNormV, "
        f"UnifiedNorm1d or BatchNorm), got {type(first).__name__} and {type(second).__name__}."
    )
