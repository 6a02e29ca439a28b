"""LaVi for an existing network: its norms become vision-infused.

Yue et al. 2025, LaVi, arXiv 2506.16691; see :mod:`normviz.adapters.lavi`. In a pre-norm block
``x += attn(N1(x)); x += ffn(N2(x))`` N1 and N2 are replaced, in every k-th block. The final norm is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from normviz.adapters.vision_infused_norm import ViLN, is_plain_norm
from normviz.validation import check_choice, check_integer

__all__ = ["SUBLAYERS", "inject_lavi"]

SUBLAYERS = ("both", "attn", "ffn")
"""Before which part of a block the norm is replaced."""

Select = Callable[[str, nn.Module], bool]
"""(qualified name, norm) -> whether the norm becomes a ViLN."""


def inject_lavi(
    model: nn.Module,
    cond_dim: int,
    vision_dim: int | None = None,
    *,
    select: Select | None = None,
    modulate_every: int = 4,
    sublayers: str = "both",
    **viln_kw: Any,
) -> nn.Module:
    """Replace norms of a network, in place, by :class:`ViLN` layers that share their parameters.

    Yue et al. 2025, LaVi, arXiv 2506.16691. The network computes the same as before until it is trained
    (``zero_init``). Its forward need not know of images: give them by :func:`~normviz.adapters.vision_context`. Which
    blocks and parts the paper's final model modulates could not be read; the defaults are a reconstruction.

    Without ``select``, the blocks are the children of the network's first nn.ModuleList that holds norms. Every
    ``modulate_every``-th is modulated, from block 0 on. In a block the first norm, in the order in which they were
    registered, is the one before attention, the second the one before the feed-forward part; others stay.

    Norms are nn.LayerNorm and nn.RMSNorm over one axis; subclasses with a forward of their own are none. ViLNs that are
    already there are left as they are, but count as norms of their block. A norm that stands in several places becomes
    one ViLN. PyTorch's own encoder layers are told not to use their fused inference kernel, which would take the norm's
    parameters and never call it.

    Args:
        model: the network. Its parameters stay, under the same names.
        cond_dim: r, the conditioners' width.
        vision_dim: dv, width of the visual tokens. None (default): each norm's width.
        select: ``select(name, norm)`` sees every norm's qualified name and decides alone.
        modulate_every: k, >= 1. Default 4.
        sublayers: "both" (default), "attn" or "ffn".
        viln_kw: further arguments of :class:`ViLN`.

    Returns:
        ``model``.

    Raises:
        ValueError: nothing matches; ``model`` is itself a norm; an argument out of range, also of ViLN. The network is
            then unchanged.

    Example:
        >>> block = lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
        >>> host = nn.Sequential()
        >>> host.blocks = nn.ModuleList(block() for _ in range(2))
        >>> model = inject_lavi(host, cond_dim=4, modulate_every=2)
        >>> [name for name, m in model.named_modules() if isinstance(m, ViLN)]
        ['blocks.0.0', 'blocks.0.2']
    """
    check_integer("modulate_every", modulate_every, 1)
    check_choice("sublayers", sublayers, SUBLAYERS)
    if is_plain_norm(model):
        raise ValueError(f"model must contain norms, got a single {type(model).__name__}; use ViLN.")
    norms = dict(_norms(model))
    if select is None:
        chosen = _by_block(model, norms, modulate_every, sublayers)
    else:
        chosen = [name for name, norm in norms.items() if not isinstance(norm, ViLN) and select(name, norm)]
    if not chosen:
        raise ValueError(
            f"model must have norms to replace, got a {type(model).__name__} of which none matches."
        )

    like = next(model.parameters(), None)
    made: dict[int, ViLN] = {}
    for name in chosen:
        norm = norms[name]
        if id(norm) not in made:
            made[id(norm)] = _infused(norm, cond_dim, vision_dim, like, **viln_kw)
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(norms[name])])
    _call_norms_always(model)
    return model


def _norms(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every norm with its qualified name, ViLNs too, but not what is inside of them."""
    for name, child in model._modules.items():  # named_children leaves out a norm's second place
        if child is not None and (isinstance(child, ViLN) or is_plain_norm(child)):
            yield prefix + name, child
        elif child is not None:
            yield from _norms(child, f"{prefix}{name}.")


def _infused(
    norm: nn.Module, cond_dim: int, vision_dim: int | None, like: nn.Parameter | None, **viln_kw: Any
) -> ViLN:
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    layer = ViLN(norm, norm.normalized_shape[-1], cond_dim, vision_dim, **viln_kw)
    if norm.weight is None and like is not None:  # nothing on the norm says where it is
        layer.to(like.device, like.dtype)
    return layer


def _by_block(model: nn.Module, norms: dict[str, nn.Module], every: int, sublayers: str) -> list[str]:
    """Names of the norms at the wanted places of the wanted blocks."""
    places = {"both": (0, 1), "attn": (0,), "ffn": (1,)}[sublayers]
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        inside = [name for name in norms if name.startswith(prefix)]
        if not isinstance(module, nn.ModuleList) or not inside:
            continue
        chosen: list[str] = []
        for index in range(0, len(module), every):
            block = f"{prefix}{index}"
            found = [name for name in inside if name == block or name.startswith(f"{block}.")]
            chosen += [found[place] for place in places if place < len(found)]
        return [name for name in chosen if not isinstance(norms[name], ViLN)]
    return []


def _call_norms_always(model: nn.Module) -> None:
    """Switch off the fused inference path of PyTorch's encoder layers, which never calls the norms."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and (
            isinstance(module.norm1, ViLN) or isinstance(module.norm2, ViLN)
        ):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
