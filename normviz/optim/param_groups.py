"""Parameter groups for the optimizers that treat weight matrices apart (SinkGD, SWAN, NorMuon, SOAP).

Their papers agree: linear weights inside the blocks get the matrix step; embeddings, output head, norm gains
and biases get Adam. Scetbon et al., arXiv 2502.06742; Ma et al., arXiv 2412.13148; Li et al., arXiv 2510.05491.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["split_matrix_params"]

FLAGS = ("use_sinkgd", "use_swan", "use_muon", "use_soap")


def split_matrix_params(model: nn.Module, exclude: Iterable[str] = ("embed", "head")) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into ``[matrices, rest]`` for SinkGD, SWAN, NorMuon and SOAP.

    A matrix has at least two axes, is no weight of an ``nn.Embedding`` or ``nn.EmbeddingBag`` (also when
    another layer shares it), and none of its dotted names contains a word of ``exclude``, whatever the case.
    Frozen parameters are in neither group.

    Args:
        model: any module; shared parameters are taken once.
        exclude: words that mark a parameter as no matrix. Default ("embed", "head"): the papers give embedding
            and output head to Adam.

    Returns:
        Two groups, either may be empty. The first carries ``use_sinkgd``, ``use_swan``, ``use_muon`` and
        ``use_soap`` True, the second all four False; each optimizer reads its own flag and ignores the others.

    Raises:
        ValueError: ``exclude`` is a single string or holds something else than strings.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.LayerNorm(8))
        >>> matrices, rest = split_matrix_params(model)
        >>> [tuple(p.shape) for p in matrices["params"]], len(rest["params"])
        ([(8, 4)], 4)
    """
    words = [exclude] if isinstance(exclude, str) else list(exclude)
    if isinstance(exclude, str) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"exclude must be several words, such as ('embed', 'head'), got {exclude!r}.")
    lowered = [word.lower() for word in words]

    # A parameter shared by two layers has two names; either one may mark it.
    names: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(p, []).append(name.lower())
    embedded = {
        p
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(recurse=False)
    }

    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for p, dotted in names.items():
        if p.requires_grad:
            marked = any(word in name for name in dotted for word in lowered)
            (rest if p.ndim < 2 or p in embedded or marked else matrices).append(p)
    return [
        {"params": matrices, **dict.fromkeys(FLAGS, True)},
        {"params": rest, **dict.fromkeys(FLAGS, False)},
    ]
