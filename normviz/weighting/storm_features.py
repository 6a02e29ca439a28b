"""What a model itself says about a sample: the features that STORM's rescaler sees.

Heck et al., "Learning from Noisy Labels via Self-Taught On-the-Fly Meta Loss Rescaling", AAAI 2025, arXiv 2412.12955.
The paper names loss, confidence and uncertainty as features, from G forward passes with dropout. Its exact list was not
readable: the seven below are a reconstruction, each in [0, 1], so that no running normaliser is needed.

With p^(g) the softmax of pass g, p = mean_g p^(g) and y the (possibly wrong) label:

====  ========================================  ==========================================
f1    1 - exp(mean_g log p^(g)_y)               the loss, squashed into [0, 1]
f2    p_y                                       confidence in the label
f3    max_c p_c                                 confidence in the prediction
f4    H(p) / log C                              entropy (all uncertainty)
f5    (1 + p_y - max_{c != y} p_c) / 2          margin of the label
f6    std_g p^(g)_y                             disagreement of the passes (epistemic part)
f7    [argmax p = y]                            the model agrees with the label
====  ========================================  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from normviz.validation import check_integer
from normviz.weighting._forward_pass import call_with, check_labels, copied_buffers, forked_rng
from normviz.weighting._values import at_least_float32

__all__ = ["FEATURE_NAMES", "sample_features"]

FEATURE_NAMES = (
    "squashed loss",
    "label probability",
    "top probability",
    "entropy",
    "margin",
    "disagreement",
    "agrees with label",
)
"""f1 to f7 in words, in the order of the columns of :func:`sample_features`."""


def sample_features(model: nn.Module, x: Any, y: Tensor, num_passes: int = 4, dropout: bool = True) -> Tensor:
    """The seven features of every sample of a batch.

    In the passes torch's dropout modules are on (``dropout``) and all other modules are in eval mode, whatever mode the
    model is in, so no layer with running statistics is updated. Modes, buffers and the global random state
    are the same afterwards. Dropout that a model applies through a function follows its module and is therefore off.

    Args:
        model: maps x to logits [n, C], C >= 2.
        x: the batch, as the model takes it.
        y: labels [n], integers in 0..C-1.
        num_passes: G >= 1 (4, our choice). With G = 1 or without dropout f6 is 0.
        dropout: whether dropout modules are on (True).

    Returns:
        f [n, 7] in [0, 1], detached, in the logits' dtype (computed in at least float32).

    Raises:
        ValueError: num_passes < 1, logits not [n, C] with C >= 2, labels of another shape or outside 0..C-1.

    Example:
        >>> f = sample_features(nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> f.shape
        torch.Size([5, 7])
    """
    check_integer("num_passes", num_passes, 1)
    with torch.no_grad(), forked_rng(model), _only_dropout(model, dropout):
        buffers = copied_buffers(model)
        logits = torch.stack([call_with(model, buffers, x) for _ in range(num_passes)])  # (G, n, C)
        if logits.ndim != 3 or logits.shape[2] < 2:
            raise ValueError(
                f"model must return logits of shape [n, C] with C >= 2, got {tuple(logits.shape[1:])}."
            )
        if y.shape != logits.shape[1:2]:
            raise ValueError(f"y must have shape {tuple(logits.shape[1:2])}, got {tuple(y.shape)}.")
        check_labels(y, logits.shape[2])
        return _features(at_least_float32(logits).log_softmax(2), y.long()).to(logits.dtype)


def _features(log_p: Tensor, y: Tensor) -> Tensor:
    """f [n, 7] from log p^(g) [G, n, C]."""
    at_y = y[None, :, None].expand(log_p.shape[0], -1, 1)  # (G, n, 1)
    log_p_y = log_p.gather(2, at_y).squeeze(2)  # (G, n)
    p = log_p.exp().mean(0)  # (n, C)
    p_y = p.gather(1, y[:, None]).squeeze(1)
    others = p.scatter(1, y[:, None], -1.0).amax(1)
    f = torch.stack(
        [
            -torch.expm1(log_p_y.mean(0)),
            p_y,
            p.amax(1),
            torch.special.entr(p).sum(1) / math.log(p.shape[1]),
            (1 + p_y - others) / 2,
            log_p_y.exp().std(0, correction=0),
            (p.argmax(1) == y).to(p.dtype),
        ],
        dim=1,
    )
    return f.clamp(0, 1)  # rounding may leave a hair outside


@contextmanager
def _only_dropout(model: nn.Module, on: bool) -> Iterator[None]:
    """Eval mode for all modules but, if ``on``, torch's dropout modules."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = on and isinstance(module, _DropoutNd)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
