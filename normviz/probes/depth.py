"""How signals and gradients fare through the depth of a network, layer by layer, while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normviz.frame import Value
from normviz.probes.probe import Probe

__all__ = ["LayerGradients", "LayerMoments"]

Select = Callable[[str, nn.Module], bool]
"""Whether a module is a layer, by its qualified name and itself."""


class LayerMoments(Probe):
    """Mean and variance of the network's input and of what each layer puts out, over all units and examples.

    Values: ``mean_by_layer`` and ``var_by_layer``, entry 0 the input, then the layers in the order they are run.

    Args:
        select: which modules are layers.
        every: cadence in steps.

    Reference: mean and variance layer by layer, as in Klambauer, Unterthiner, Mayr, Hochreiter, "Self-Normalizing
        Neural Networks", arXiv 1706.02515.
    """

    def __init__(self, select: Select, every: int = 1) -> None:
        super().__init__(every)
        self.select = select

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:
        """Hook the network and the selected layers; put the moments into ``values`` on leaving."""
        moments: list[Tensor] = []

        def record(x: Tensor) -> None:
            moments.append(torch.stack(torch.var_mean(x.detach().float(), correction=0)))

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            record(args[0])

        def after(module: nn.Module, args: object, output: Tensor) -> None:  # noqa: ARG001
            record(output)

        layers = [module for name, module in model.named_modules() if self.select(name, module)]
        handles = [model.register_forward_pre_hook(before)]
        handles += [layer.register_forward_hook(after) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if moments:
            values["var_by_layer"], values["mean_by_layer"] = (
                torch.stack(moments, 1).cpu().numpy()
            )  # (2, layers + 1)


class LayerGradients(Probe):
    """Root mean square of the weight's gradient in each layer: value ``gradient_by_layer``, input side first.

    Args:
        select: which modules are layers; those without a ``weight`` or without a gradient are left out.
        every: cadence in steps.

    Reference: none, no paper.
    """

    def __init__(self, select: Select, every: int = 1) -> None:
        super().__init__(every)
        self.select = select

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:
        """One entry per layer; nothing if there is none."""
        weights = [
            module.get_parameter("weight")
            for name, module in model.named_modules()
            if self.select(name, module) and isinstance(getattr(module, "weight", None), nn.Parameter)
        ]
        grads = [w.grad for w in weights if w.grad is not None]
        if not grads:
            return {}
        sizes = torch.tensor([float(g.numel()) for g in grads])
        norms = torch.stack(torch._foreach_norm(grads)).cpu()
        return {"gradient_by_layer": (norms / sizes.sqrt()).numpy()}
