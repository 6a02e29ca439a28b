r"""ReDo: recycle dormant units.

Ghada Sokar, Rishabh Agarwal, Pablo Samuel Castro, Utku Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement
Learning", ICML 2023, arXiv 2302.12902. One of the baselines of Normalize-and-Project (arXiv 2407.01800), written ReDO
there.

On a batch, unit j of a layer has the score ``mean |a_j| / mean_k mean |a_k|`` after its activation; it is dormant if
the score is at most tau. A dormant unit is recycled: its incoming weights are drawn anew, its bias and its outgoing
weights become 0, and so do the optimizer's moments of all these entries. For tau = 0 and without norms the function is
the same afterwards (on that batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer

from normviz.module_roles import dormant_units, is_activation
from normviz.validation import check_integer, check_real

__all__ = ["ReDO"]

Layer = nn.Linear | _ConvNd


class ReDO:
    """Recycle dormant units of the hidden Linear and convolution layers every few steps.

    A hidden layer is one that another Linear or convolution follows; its units are scored at the output of the
    activation modules between the two. The layers must run one after the other, each once: outgoing weights are those
    of the layer that runs next. What residual branches add around it is not seen.

    Args:
        model: the network.
        optimizer: its moments of the recycled entries are set to 0: all state tensors of the parameter's shape. Default
            None: weights only.
        tau: threshold of the score, >= 0. Default 0.025 (unconfirmed).
        every: recycle on calls every, 2 every, … of :meth:`step`. Default 1000 (unconfirmed).

    Raises:
        ValueError: ``tau`` < 0, ``every`` < 1, no hidden layer, a transposed convolution or a parametrized weight, or a
            hidden layer without an activation module after it (an activation that is a function call cannot be seen).

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = nn.init.constant_(model[0].bias, -100.0)  # all four units are dead
        >>> redo = ReDO(model, every=2)
        >>> x = torch.randn(8, 3)
        >>> redo.step(x), redo.step(x)
        ({}, {'0': 4})

    Reference: Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", arXiv
        2302.12902; score in the module's docstring.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None = None, tau: float = 0.025, every: int = 1000
    ) -> None:
        self.tau = check_real("tau", tau, 0)
        self.every = check_integer("every", every, 1)
        self.model, self.optimizer = model, optimizer
        self.calls = 0
        self._layers = {m: name for name, m in model.named_modules() if isinstance(m, Layer)}
        self._activations = [m for m in model.modules() if is_activation(m)]
        _check_structure(model, self._layers)

    @torch.no_grad()
    def step(self, x: Tensor) -> dict[str, int]:
        """Count the call; on every ``every``-th one run the batch and recycle.

        Nothing but the recycled entries changes: buffers, gradients and modes stay as they are, and the random state
        advances only by the new weights.

        Args:
            x: a batch, as the model takes it.

        Returns:
            Number of recycled units of each hidden layer, by module name; {} on the other calls.

        Raises:
            ValueError: in this run a layer ran twice, a hidden one had no activation after it or one of another shape,
                or the next layer's inputs are no multiple of its units.
        """
        self.calls += 1
        if self.calls % self.every:
            return {}
        order, dormant = self._run(x)
        hidden = list(pairwise(order))
        for layer, following in hidden:
            if layer not in dormant:
                raise ValueError(f"no activation module ran after the hidden layer {self._layers[layer]}.")
            if _inputs(following) % len(dormant[layer]):
                raise ValueError(
                    f"{self._layers[following]} has {_inputs(following)} inputs, no multiple of the "
                    f"{len(dormant[layer])} units of {self._layers[layer]}."
                )
        for layer, _ in hidden:
            self._renew_incoming(layer, dormant[layer])
        for layer, following in hidden:
            self._silence_outgoing(following, dormant[layer])
        return {self._layers[layer]: int(dormant[layer].sum()) for layer, _ in hidden}

    def _run(self, x: Tensor) -> tuple[list[Layer], dict[Layer, Tensor]]:
        """Layers in the order in which they run, and the dormant units of those that an activation follows."""
        order: list[Layer] = []
        dormant: dict[Layer, Tensor] = {}

        def layer_ran(layer: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
            assert isinstance(layer, Layer)
            if layer in order:
                raise ValueError(f"the layer {self._layers[layer]} ran twice; its units cannot be recycled.")
            order.append(layer)

        def activation_ran(activation: nn.Module, args: object, output: Tensor) -> None:  # noqa: ARG001
            if order:
                layer = order[-1]
                axis = -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1
                if output.ndim < -axis or output.shape[axis] != layer.weight.shape[0]:
                    raise ValueError(
                        f"the activation after {self._layers[layer]} must put out its {layer.weight.shape[0]} units "
                        f"on axis {axis}, got shape {tuple(output.shape)}."
                    )
                dormant[layer] = dormant_units(output, axis, self.tau)

        handles = [layer.register_forward_hook(layer_ran) for layer in self._layers]
        handles += [activation.register_forward_hook(activation_ran) for activation in self._activations]
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        devices = {p.device for p in self.model.parameters() if p.device.type == "cuda"}
        try:
            with torch.random.fork_rng(devices=devices):
                functional_call(self.model, buffers, (x,))
        finally:
            for handle in handles:
                handle.remove()
        return order, dormant

    def _renew_incoming(self, layer: Layer, dormant: Tensor) -> None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        fresh = torch.empty_like(layer.weight[dormant]).uniform_(-bound, bound)
        layer.weight[dormant] = fresh
        rows = dormant.reshape(-1, *[1] * (layer.weight.ndim - 1))
        for moment in self._moments(layer.weight):
            moment.masked_fill_(rows, 0)
        if layer.bias is not None:
            for entries in (layer.bias, *self._moments(layer.bias)):
                entries.masked_fill_(dormant, 0)

    def _silence_outgoing(self, following: Layer, dormant: Tensor) -> None:
        weight = following.weight
        groups = following.groups if isinstance(following, _ConvNd) else 1
        inputs = dormant.repeat_interleave(_inputs(following) // len(dormant))
        columns = inputs.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)
        columns = columns.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))  # (out, in / groups, 1, ...)
        for entries in (weight, *self._moments(weight)):
            entries.masked_fill_(columns, 0)

    def _moments(self, p: Tensor) -> Iterator[Tensor]:
        state = self.optimizer.state.get(p, {}) if self.optimizer is not None else {}
        for value in state.values():
            if isinstance(value, Tensor) and value.shape == p.shape:
                yield value


def _inputs(layer: Layer) -> int:
    return layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features


def _check_structure(model: nn.Module, layers: dict[Layer, str]) -> None:
    """Raise unless there are hidden layers, each with an activation before the next layer as modules are registered."""
    if len(layers) < 2:
        raise ValueError(f"model must have a hidden Linear or convolution layer, got {len(layers)} layers.")
    waiting: str | None = None
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _ConvTransposeNd):
            raise ValueError(f"{name} is a transposed convolution, whose units cannot be recycled.")
        if isinstance(module, Layer) and "weight" not in module._parameters:
            raise ValueError(f"the weight of {name} is computed by a parametrization and cannot be set.")
        if isinstance(module, Layer):
            if waiting is not None:
                raise ValueError(
                    f"the hidden layer {waiting} has no activation module after it, so its units cannot be seen."
                )
            waiting = name
        elif is_activation(module):
            waiting = None
