"""How steep the loss is in what flows into a layer: the gradient with respect to the layer's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["InputGradient"]


@dataclass
class _Call:
    """One call of a layer: what went in, the state before, and the gradient that came back."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: dict[str, Tensor]
    gradient: list[Tensor] = field(default_factory=list)

    def norm(self) -> Tensor:
        """Norm of dL/dX through this layer alone."""
        x = self.args[0].detach().requires_grad_()
        with torch.enable_grad():
            y = functional_call(self.layer, self.state, (x, *self.args[1:]), self.kwargs)
        (dx,) = torch.autograd.grad(y, x, self.gradient[0])
        norm: Tensor = torch.linalg.vector_norm(dx.float())
        return norm


class InputGradient(Probe):
    """Euclidean norm of dL/dX for the input X of each chosen layer, over all its entries.

    Only the way through the layer counts: what reaches X through a residual connection beside the layer is left out.
    The largest of these norms along a run is a lower bound of the Lipschitz constant of the loss in X, which is what
    PowerNorm's first theorem compares: with the batch's quadratic mean psi^2, a gain gamma and n rows,
    |dL/dX_c|^2 = gamma_c^2 / psi_c^2 (|dL/dY_c|^2 - <dL/dY_c, Z_c>^2 / n) for every channel c.

    Values: ``input_gradient_by_layer``, one norm per layer in the order they run, and ``input_gradient``, the largest
    of them. Layers that hand their input on as it is are left out; nothing where the forward pass that is watched keeps
    no gradient.

    Args:
        select: which modules are layers, by qualified name and module.
        every: cadence in steps.

    Reference: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers",
        arXiv 2003.07845, the theorem on the Lipschitz constant of the loss.
    """

    def __init__(self, select: Callable[[str, nn.Module], bool], every: int = 1) -> None:
        super().__init__(every)
        self.select = select
        self._calls: list[_Call] = []

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:  # noqa: ARG002
        """Hook the selected layers; what is needed after the backward pass is kept."""
        calls = self._calls = []

        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
            calls.append(_Call(layer, args, kwargs, state))

        def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            passes_on = not args or output is args[0]
            if not passes_on and isinstance(output, Tensor) and output.requires_grad:
                call = next(call for call in reversed(calls) if call.layer is layer)
                output.register_hook(call.gradient.append)  # type: ignore[no-untyped-call]

        layers = [module for name, module in model.named_modules() if self.select(name, module)]
        handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
        handles += [layer.register_forward_hook(after) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:  # noqa: ARG002
        """The norms; nothing if no gradient came back.

        Each layer is run once more by itself, from the state that it had: the training's own graph, its sums and the
        layers' states stay as they are without the probe.
        """
        calls, self._calls = [call for call in self._calls if call.gradient], []
        if not calls:
            return {}
        norms = torch.stack([call.norm() for call in calls])
        return {"input_gradient_by_layer": norms.cpu().numpy(), "input_gradient": float(norms.max())}
