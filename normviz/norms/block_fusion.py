"""Folding the norms of a transformer block into the linear layers that read them.

Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv:2208.01313: in a pre-norm
block each norm feeds linear layers only (query, key and value; the first feed-forward layer), so a norm that is one
multiply-add per channel in eval disappears into them. In a post-norm block the norm's output also runs along the
residual path: what can be saved there is the division and the root, not the multiply-add itself.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normviz.norms.fusion import FoldableNorm, fuse_into_linear

__all__ = ["ScaleShift", "fuse_transformer_block"]


class ScaleShift(nn.Module):
    """``y = x * scale + shift`` on the last axis: what remains of an offline norm whose statistics are frozen.

    Args:
        scale: (C,).
        shift: (C,).

    Reference: Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv 2208.01313,
        norms of a transformer block in eval.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.detach().clone())
        self.shift = nn.Parameter(shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as x (..., C)."""
        return (x * self.scale + self.shift).to(x.dtype)

    def extra_repr(self) -> str:
        """Number of channels."""
        return str(len(self.scale))


def fuse_transformer_block(block: nn.Module) -> nn.Module:
    """A copy of a transformer block, in eval mode, with its two offline norms folded away.

    Parts are found by name (timm's and ours): ``norm1``, ``attn.qkv`` or ``attn.q``, ``attn.k`` and ``attn.v``,
    ``norm2``, ``mlp.fc1``. Pre-norm (``block.norm_first`` true or absent): norm1 goes into the projections, norm2
    into fc1, and both become ``nn.Identity``. Post-norm (``norm_first`` False): both become :class:`ScaleShift`.

    Args:
        block: left as it is. Its norms must be foldable (:class:`FoldableNorm`): UnifiedNorm1d, our BatchNorm, or
            PowerNorm or PowerNormV without group scaling.

    Returns:
        The fused copy; equal to ``block.eval()`` up to rounding.

    Raises:
        TypeError: a norm of another kind (LayerNorm, group scaling), or a part that is missing or not a Linear.
        ValueError: a norm whose channels are not the Linear's input features.
    """
    fused = copy.deepcopy(block)
    folded = {name: _folded_norm(fused, name) for name in ("norm1", "norm2")}
    if not getattr(fused, "norm_first", True):
        for name, norm in folded.items():
            setattr(fused, name, ScaleShift(*norm.eval_scale_shift()))
        return fused.eval()
    attn, mlp = _part(fused, "attn"), _part(fused, "mlp")
    projections = ("qkv",) if hasattr(attn, "qkv") else ("q", "k", "v")
    consumers = [("norm1", attn, name) for name in projections] + [("norm2", mlp, "fc1")]
    for norm_name, owner, name in consumers:
        setattr(owner, name, fuse_into_linear(getattr(fused, norm_name), _part(owner, name)))
    fused.norm1, fused.norm2 = nn.Identity(), nn.Identity()
    return fused.eval()


def _part(owner: nn.Module, name: str) -> nn.Module:
    part = getattr(owner, name, None)
    if not isinstance(part, nn.Module):
        raise TypeError(f"{type(owner).__name__} must have a module {name!r}, got {part!r}.")
    return part


@torch.no_grad()
def _folded_norm(block: nn.Module, name: str) -> FoldableNorm:
    norm = _part(block, name)
    refusal = f"{name} must be a norm with frozen statistics and nothing per token, got {type(norm).__name__}"
    if not isinstance(norm, FoldableNorm):
        raise TypeError(f"{refusal}.")
    try:
        norm.eval_scale_shift()
    except ValueError as error:
        raise TypeError(f"{refusal}: {error}") from error
    return norm
