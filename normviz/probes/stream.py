"""Signal and gradient along a residual stream: h_0, h_1, …, h_n between encoder and decoder of a residual tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["ResidualStream"]


class ResidualStream(Probe):
    """Sizes of a residual stream h_0..h_n, of the gradient that reaches it, and of each block's contribution.

    Values: ``signal_by_layer`` (n + 1 entries), the batch mean of the norm of h_i; ``effective_scale`` (n), the batch
    mean of |h_i - h_{i-1}| over that of |h_{i-1}|; ``stream_gradient`` (n + 1), the norm of dL/dh_i over the batch. The
    gradient is missing where the forward pass that is watched keeps none.

    Args:
        points: the network's modules whose inputs are h_0, …, h_n, in the order they run, e.g. blocks and decoder.
        every: cadence in steps.

    Reference: for towers as in Dherin, Munn, "On residual network depth", arXiv 2510.03470.
    """

    def __init__(self, points: Callable[[nn.Module], list[nn.Module]], every: int = 1) -> None:
        super().__init__(every)
        self.points = points
        self._stream: list[Tensor] = []

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Hook the points; put the sizes into ``values`` on leaving."""
        stream = self._stream = []

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            h = args[0]
            if h.requires_grad:
                h.retain_grad()
            stream.append(h)

        handles = [point.register_forward_pre_hook(keep) for point in self.points(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if stream:
            h = torch.stack([part.detach().float().flatten(1) for part in stream])  # (n+1, B, d)
            size = torch.linalg.vector_norm(h, dim=2).mean(1)
            moved = torch.linalg.vector_norm(h[1:] - h[:-1], dim=2).mean(1)
            values["signal_by_layer"] = size.cpu().numpy()
            values["effective_scale"] = (moved / size[:-1]).cpu().numpy()

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:  # noqa: ARG002
        """Norms of dL/dh_i; nothing if none was kept."""
        grads = [h.grad for h in self._stream if h.grad is not None]
        complete = bool(grads) and len(grads) == len(self._stream)
        self._stream = []
        if not complete:
            return {}
        return {"stream_gradient": torch.stack(torch._foreach_norm(grads)).float().cpu().numpy()}
