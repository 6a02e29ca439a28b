"""Online test-time adaptation: predict a batch, then take a step on a loss that needs no labels.

The loop is that of TENT (Wang et al., ICLR 2021, arXiv 2006.10726; official code DequanWang/tent), with the statistics
of alpha-BN (You, Li, Zhao, arXiv 2110.04065) in every batch norm. Core's own optimizer and learning rates could not be
confirmed; Adam with 1e-3 is TENT's for small images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.norms import calibrate_batchnorm
from normviz.norms.alpha_bn import AlphaBatchNorm1d, AlphaBatchNorm2d, AlphaBatchNorm3d
from normviz.validation import check_choice, check_integer

__all__ = ["OnlineAdapter"]

_ALPHA_LAYERS = (AlphaBatchNorm1d, AlphaBatchNorm2d, AlphaBatchNorm3d)


class OnlineAdapter:
    """A copy of a trained model with alpha-BN statistics that goes on learning from the batches it predicts.

    For every batch, ``steps`` times: forward, loss of the logits, one optimizer step. The logits of the last forward
    are returned, so with one step a prediction never depends on its own batch's update (TENT's rule). Gradients are
    switched on inside, also where the caller has switched them off. A step whose loss is not finite is left out and
    counted in ``skipped``.

    Args:
        model: a trained network with batch norm. It is left as it is; the adapter works on a deep copy, ``model``, in
            eval mode (so dropout is off; alpha-BN takes batch statistics in either mode).
        loss: maps logits to a 0-dim loss, e.g. :class:`~normviz.adaptive.CoreLoss`. None: no adaptation.
        optimizer_fn: builds the optimizer from a list of parameters. None (default): Adam with lr 1e-3, no weight
            decay (TENT; for ImageNet-sized models it takes SGD with lr 2.5e-4 and momentum 0.9).
        alpha: weight of the source statistics, in [0, 1]; a number, or one per batch norm. Default 0.9 (ours).
        steps: steps per batch, >= 1. Default 1 (TENT).
        episodic: return to the source state before each batch. Default False.
        params: what learns: "affine" (default), gain and bias of the batch norms; "all", every parameter (an ablation).
        **bn_kw: ``detach_stats``, ``unbiased``, ``variance`` of the alpha layers.

    Attributes:
        model: the adapted network.
        optimizer: its optimizer; None without a loss.
        skipped: steps left out because of a loss that was not finite.

    Raises:
        ValueError: an argument out of range; a model without batch norm or, with a loss, without parameters to learn;
            an empty batch.

    Example:
        >>> from normviz.adaptive import CoreLoss
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        >>> trained = net(torch.randn(16, 4))
        >>> adapter = OnlineAdapter(net, CoreLoss(), alpha=0.7)
        >>> adapter(torch.randn(10, 4)).shape
        torch.Size([10, 3])

    Reference: the loop of Wang et al. 2021 (TENT), arXiv 2006.10726, with the statistics of You, Li, Zhao 2021
    (alpha-BN), arXiv 2110.04065.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None,
        optimizer_fn: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        alpha: float | Iterable[float] = 0.9,
        steps: int = 1,
        episodic: bool = False,
        params: str = "affine",
        **bn_kw: Any,
    ) -> None:
        self.steps = check_integer("steps", steps, 1)
        self.episodic = bool(episodic)
        self.params = check_choice("params", params, ("affine", "all"))
        self.loss = loss
        self.model = calibrate_batchnorm(copy.deepcopy(model), alpha, **bn_kw).eval()
        self.model.requires_grad_(False)
        self.optimizer: Optimizer | None = None
        self.skipped = 0
        if loss is not None:
            learning = self._learning()
            if not learning:
                raise ValueError(f"model must have parameters to learn with params={params!r}, got none.")
            for p in learning:
                p.requires_grad_(True)
            self.optimizer = (
                torch.optim.Adam(learning, lr=1e-3) if optimizer_fn is None else optimizer_fn(learning)
            )
        self._source = self._state()

    def _learning(self) -> list[nn.Parameter]:
        if self.params == "all":
            return list(self.model.parameters())
        layers = [module for module in self.model.modules() if isinstance(module, _ALPHA_LAYERS)]
        return list(dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False)))

    def __call__(self, x: Tensor) -> Tensor:
        """Predict a batch and learn from it.

        Args:
            x: (N, ...), what the model takes.

        Returns:
            The logits, detached.
        """
        if not len(x):
            raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}.")
        if self.episodic:
            self.reset()
        if self.loss is None or self.optimizer is None:
            with torch.no_grad():
                predicted: Tensor = self.model(x)
                return predicted
        with torch.inference_mode(False), torch.enable_grad():
            given = x.clone() if x.is_inference() else x.detach()
            for _ in range(self.steps):
                logits: Tensor = self.model(given)
                self._step(self.loss(logits), self.optimizer)
        return logits.detach()

    def _step(self, loss: Tensor, optimizer: Optimizer) -> None:
        if not bool(torch.isfinite(loss)):
            self.skipped += 1
            return
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def _state(self) -> dict[str, Any]:
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": optimizer})

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def reset(self) -> None:
        """Return model and optimizer to the state at construction; ``skipped`` goes on counting."""
        self._load(self._source)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state of model and optimizer, and ``skipped``."""
        return {**self._state(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; ``reset`` still returns to this adapter's own source."""
        self._load(state)
        self.skipped = state["skipped"]
