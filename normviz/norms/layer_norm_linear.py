"""The feed-forward layer of "Layer Normalization" (arXiv 1607.06450); see :mod:`normviz.norms.layer_norm`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms.layer_norm import LayerNorm
from normviz.validation import check_choice, check_integer

__all__ = ["LayerNormLinear"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}


class LayerNormLinear(nn.Module):
    """The paper's feed-forward layer ``h = f(LN(W x))``: Linear without bias, layer norm, nonlinearity.

    The Linear has no bias since the norm has one (and takes away the mean anyway).

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        activation: "tanh" (default), "relu", "gelu", "sigmoid", "identity", or any callable on tensors.
        eps: of the norm. Default 1e-5 (authors' code).
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: unknown activation name, sizes below 1.
        TypeError: ``activation`` neither a string nor callable.

    Reference: Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450: ``h = f(LN(W x))``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | Callable[[Tensor], Tensor] = "tanh",
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("out_features", out_features, 1)
        if isinstance(activation, str):
            activation = _ACTIVATIONS[check_choice("activation", activation, _ACTIVATIONS)]
        elif not callable(activation):
            raise TypeError(f"activation must be a string or a callable, got {type(activation).__name__}.")
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm = LayerNorm(out_features, eps)
        self.activation = activation
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        h: Tensor = self.activation(self.norm(self.linear(x)))
        return h
