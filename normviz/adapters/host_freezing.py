"""Freezing a language model that sees by LaVi: only what reads the image is trained.

Yue et al. 2025, LaVi, arXiv 2506.16691; see :mod:`normviz.adapters.lavi`. Training in two stages, first with the
language model frozen and then as a whole, is how such models are usually trained; the paper's own recipe could not be
read.
"""

from __future__ import annotations

from torch import nn

from normviz.adapters.lavi_decoder import LaViDecoder
from normviz.adapters.vision_infused_norm import ViLN

__all__ = ["freeze_host"]


def freeze_host(model: nn.Module) -> nn.Module:
    """Leave only what reads the image trainable: the first stage of training, which cannot harm the language model.

    Yue et al. 2025, LaVi, arXiv 2506.16691. ``requires_grad`` becomes True for the ``conditioner`` and ``head`` of
    every :class:`ViLN` and for the ``projector`` of a :class:`~normviz.adapters.LaViDecoder`, and False elsewhere. What
    the model computes without an image then never changes.

    Args:
        model: a network with ViLNs.

    Returns:
        ``model``.

    Example:
        >>> from normviz.adapters import inject_lavi
        >>> model = inject_lavi(nn.Sequential(nn.LayerNorm(8)), 4, select=lambda name, norm: True)
        >>> {name.split(".")[1] for name, p in freeze_host(model).named_parameters() if p.requires_grad}
        {'conditioner', 'head'}
    """
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ViLN):
            module.conditioner.requires_grad_(True)
            module.head.requires_grad_(True)
        elif isinstance(module, LaViDecoder) and module.projector is not None:
            module.projector.requires_grad_(True)
    return model
