"""Uncentred covariances of the inputs of linear layers, collected while samples go through a network."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normviz.adapters._values import full_precision
from normviz.validation import nearest

__all__ = ["CovarianceCollector"]


class CovarianceCollector:
    r"""Context manager that sums ``x^T x`` over samples at the inputs of linear layers.

    Yang et al. 2024 (CorDA), arXiv 2406.05223, section 3.2, as in its code. Per sample x [tokens, in]:

        x <- x / |max(x)|,   C = 1/N sum over samples of x^T x   [in, in]

    max is the signed maximum over the whole sample, not that of the sizes, as in the official code. No mean is
    subtracted, and nothing divides by the number of tokens. N is the number of samples; the official code divides by
    256 whatever their number, and takes one sample per forward. Here all axes before [tokens, in] count samples, each
    with its own maximum; an input [tokens, in] is one sample, and [in] one sample of one token. A layer that is used
    twice in a forward counts two samples.

    While inside, every submodule is in eval mode; on leaving (also by an exception) hooks go and each submodule gets
    its own training flag back. The instance may be entered again: sums and counts go on.

    Args:
        model: the network.
        targets: names of linear layers as in ``model.named_modules()``. None: every nn.Linear.
        normalize: divide each sample by |max(x)|. Default True (official code).
        dtype: of the sums; inputs are cast to it first. Default torch.float32.

    Raises:
        ValueError: a target that is unknown or not an nn.Linear; dtype not floating. While inside, naming the layer: an
            input or a sum that is not finite; with normalize a sample whose maximum is 0 (all of it <= 0, or a layer
            behind a ReLU that is dead); a sample without tokens.
        RuntimeError: entered while it is already inside.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with CovarianceCollector(model, ["0"], normalize=False) as collector:
        ...     _ = model(torch.ones(5, 3))
        >>> collector.covariances()["0"].tolist(), collector.counts
        ([[5.0, 5.0, 5.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]], {'0': 1})
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Iterable[str] | None = None,
        *,
        normalize: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a real floating dtype, got {dtype}.")
        self.model, self.normalize, self.dtype = model, normalize, dtype
        self._layers = _linears(model, targets)
        self._sums: dict[str, Tensor] = {}
        self._counts = dict.fromkeys(self._layers, 0)
        self._handles: list[RemovableHandle] = []
        self._training: list[tuple[nn.Module, bool]] | None = None

    def __enter__(self) -> CovarianceCollector:
        if self._training is not None:
            raise RuntimeError("this CovarianceCollector is already collecting.")
        self._training = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        self._handles = [
            layer.register_forward_pre_hook(partial(self._collect, name), with_kwargs=True)
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for module, training in self._training or ():
            module.training = training
        self._handles, self._training = [], None

    @property
    def counts(self) -> dict[str, int]:
        """Samples seen so far at each target."""
        return dict(self._counts)

    def covariances(self) -> dict[str, Tensor]:
        """C [in, in] of each target, in ``dtype``.

        Raises:
            ValueError: a target that was never called, by name.
        """
        for name, count in self._counts.items():
            if count == 0:
                raise ValueError(f"the layer {name!r} was never called while inputs were collected.")
        return {name: self._sums[name] / count for name, count in self._counts.items()}

    def _collect(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        with torch.no_grad(), full_precision(x):
            x = x.detach().to(self.dtype)
            rows = x.shape[-2] if x.ndim > 1 else 1
            if rows == 0:
                raise ValueError(f"the layer {name!r} was given a sample without tokens.")
            samples = x.reshape(-1, rows, x.shape[-1])  # [samples, tokens, in]
            if samples.shape[0] == 0:
                return
            if not bool(torch.isfinite(samples).all()):
                raise ValueError(f"the input of layer {name!r} is not finite.")
            if self.normalize:
                samples = samples / self._largest(name, samples)
            flat = samples.flatten(0, 1)
            added = flat.mT @ flat
            if not bool(torch.isfinite(added).all()):
                raise ValueError(f"the covariance of layer {name!r} is not finite in {self.dtype}.")
            self._sums[name] = self._sums[name] + added if name in self._sums else added
            self._counts[name] += samples.shape[0]

    def _largest(self, name: str, samples: Tensor) -> Tensor:
        largest = samples.amax((-2, -1), keepdim=True).abs()
        if bool((largest == 0).any()):
            raise ValueError(
                f"the input of layer {name!r} has a sample whose maximum is 0, which cannot be divided by; collect with"
                " normalize=False."
            )
        return largest


def _linears(model: nn.Module, targets: Iterable[str] | None) -> dict[str, nn.Linear]:
    modules = dict(model.named_modules())
    linears = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    if targets is None:
        return linears
    layers = {}
    for name in [targets] if isinstance(targets, str) else targets:
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            what = "unknown" if module is None else f"a {type(module).__name__}"
            close = nearest(str(name), linears)
            hint = f" Nearest: {', '.join(close)}." if close else ""
            raise ValueError(
                f"targets must be names of nn.Linear layers of the model, got {name!r}, which is {what}.{hint}"
            )
        layers[name] = module
    return layers
