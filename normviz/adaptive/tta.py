"""Test-time adaptation methods in one interface: ``method(x) -> logits``, ``method.reset()``, ``method.model``.

==============  ====================================  ==========================  ==================================
factory         statistics of batch norm              loss                        paper
==============  ====================================  ==========================  ==================================
``source``      source                                none                        ordinary eval mode
``tbn``         test batch                            none                        Nado et al., arXiv 2006.10963
``alpha_bn``    mixture                               none                        You, Li, Zhao, arXiv 2110.04065
``core``        mixture                               Core (reconstructed)        the same
``tent``        test batch, with gradient             entropy                     Wang et al., arXiv 2006.10726
``adabn``       the whole test set, two passes        none                        Li et al., arXiv 1603.04779
``tbn_ema``     running average over test batches     none                        the running update of batch norm
==============  ====================================  ==========================  ==================================

All work on a deep copy and leave the given model as it is. Ablations are an :class:`OnlineAdapter` away: alpha-BN with
entropy is ``OnlineAdapter(model, EntropyLoss(), alpha=0.7)``, TBN with the Core loss is alpha = 0 with ``CoreLoss()``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normviz.adaptive import corruptions
from normviz.adaptive.core_loss import CoreLoss, EntropyLoss, class_correlation
from normviz.adaptive.online_adapter import OnlineAdapter
from normviz.norms import restore_batchnorm
from normviz.validation import check_real

__all__ = [
    "CoreLoss",
    "EntropyLoss",
    "OnlineAdapter",
    "ReestimatedStatistics",
    "adabn",
    "alpha_bn",
    "class_correlation",
    "core",
    "corruptions",
    "source",
    "tbn",
    "tbn_ema",
    "tent",
]


def source(model: nn.Module) -> OnlineAdapter:
    """The model in eval mode, with its source statistics (alpha = 1)."""
    return OnlineAdapter(model, None, alpha=1.0)


def tbn(model: nn.Module) -> OnlineAdapter:
    """Test-time batch norm: the statistics of each test batch (alpha = 0); Nado et al., arXiv 2006.10963."""
    return OnlineAdapter(model, None, alpha=0.0)


def alpha_bn(model: nn.Module, alpha: float | Iterable[float] = 0.9) -> OnlineAdapter:
    """alpha-BN without training (arXiv 2110.04065); ``alpha`` is the weight of the source, default 0.9 (ours)."""
    return OnlineAdapter(model, None, alpha=alpha)


def core(model: nn.Module, alpha: float | Iterable[float] = 0.9, lr: float = 1e-3) -> OnlineAdapter:
    """Core (reconstructed, arXiv 2110.04065): alpha-BN and one Adam step on :class:`CoreLoss` per batch.

    Args:
        model: a trained network with batch norm.
        alpha: weight of the source statistics. Default 0.9 (ours).
        lr: learning rate > 0. Default 1e-3 (TENT's; Core's own is unconfirmed).
    """
    return OnlineAdapter(model, CoreLoss(), _adam(lr), alpha)


def tent(model: nn.Module, lr: float = 1e-3) -> OnlineAdapter:
    """TENT (arXiv 2006.10726): test-batch statistics with gradient, and one Adam step on the entropy per batch.

    Unlike in the official code dropout is off.

    Args:
        model: a trained network with batch norm.
        lr: learning rate > 0. Default 1e-3 (the paper's for small images).
    """
    return OnlineAdapter(model, EntropyLoss(), _adam(lr), alpha=0.0, detach_stats=False)


def _adam(lr: float) -> Any:
    return partial(torch.optim.Adam, lr=check_real("lr", lr, 0, low_open=True, high_open=True))


class ReestimatedStatistics:
    """A model in eval mode whose running statistics are replaced from test data: what ``adabn`` and ``tbn_ema`` return.

    Attributes:
        model: the deep copy that predicts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)
        self._start = copy.deepcopy(self.model.state_dict())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The logits of a batch x (N, ...), detached.

        Raises:
            ValueError: the batch is empty.
        """
        if not len(x):
            raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}.")
        logits: Tensor = self.model(x)
        return logits

    def reset(self) -> None:
        """Return to the state at construction: of ``adabn`` after its first pass, of ``tbn_ema`` the source."""
        self.model.load_state_dict(self._start)


def adabn(model: nn.Module, loader: Iterable[Any]) -> ReestimatedStatistics:
    """AdaBN: the statistics of the whole unlabelled test set; Li et al., arXiv 1603.04779.

    The first pass happens here: every batch norm in train mode and the rest in eval, from reset statistics with
    momentum None, which is torch's cumulative average of batch means and unbiased batch variances. Calls are then plain
    eval mode.

    Args:
        model: a trained network with batch norm.
        loader: yields batches x or (x, ...), each with more than one value per channel.

    Raises:
        ValueError: no batch norm, one without running statistics, or no batch.
    """
    adapted, layers = _plain_copy(model)
    adapted.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    batches = 0
    with torch.no_grad():
        for batch in loader:
            adapted(batch[0] if isinstance(batch, tuple | list) else batch)
            batches += 1
    if not batches:
        raise ValueError("loader must yield at least one batch, got none.")
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return ReestimatedStatistics(adapted)


def tbn_ema(model: nn.Module, momentum: float = 0.1) -> ReestimatedStatistics:
    """Running statistics that follow the test batches and normalise them.

    Per batch and layer: ``running <- (1 - momentum) running + momentum (mean, biased variance of its input)``, then the
    input is normalised with the new running statistics.

    Args:
        model: a trained network with batch norm.
        momentum: weight of the new batch, in [0, 1]. Default 0.1 (torch's).

    Raises:
        ValueError: momentum out of range, no batch norm, or one without running statistics.
    """
    m = check_real("momentum", momentum, 0, 1)
    adapted, layers = _plain_copy(model)
    for layer in layers:
        layer.register_forward_pre_hook(partial(_follow, momentum=m))
    return ReestimatedStatistics(adapted)


@torch.no_grad()
def _follow(layer: nn.Module, inputs: tuple[Tensor, ...], momentum: float) -> None:
    x = inputs[0]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, (0, *range(2, x.ndim)), correction=0)
    for running, new in ((layer.running_mean, mean), (layer.running_var, var)):
        assert isinstance(running, Tensor)
        running.copy_((1 - momentum) * running.to(new.dtype) + momentum * new)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _plain_copy(model: nn.Module) -> tuple[nn.Module, list[_BatchNorm]]:
    """A deep copy with plain batch norms in the place of alpha layers, and its batch norms."""
    copied = restore_batchnorm(copy.deepcopy(model))
    layers = [cast(_BatchNorm, module) for module in copied.modules() if type(module) in _BATCH_NORMS]
    if not layers:
        raise ValueError("model must have a batch norm, got none.")
    for layer in layers:
        if layer.running_mean is None:
            raise ValueError(
                "model must have batch norms with running statistics (track_running_stats=True)."
            )
    return copied, layers
