"""A multilayer perceptron: the network of most demonstrations on the 8 x 8 digits (64-128-128-10).

Reading of one block, in order: ``linear`` -> ``norm`` -> ``activation`` -> ``dropout``. The norm acts on the summed
inputs, before the nonlinearity, as layer and batch normalization were proposed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import INITS, Activation, NormFactory, build, linear, make_activation

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear -> norm -> activation -> dropout, once per hidden width, then a plain linear ``head``.

    The input (..., in_features) may have any leading axes the norm accepts; the output is (..., out_features).
    Norm layers are ``blocks.<i>.norm``.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers; empty gives a linear model.
        out_features: width of the output (logits, or values in regression).
        norm: width -> norm layer, or None (default) for no norm.
        activation: a name ("relu" by default) or a factory without arguments, e.g. ``nn.SELU``.
        dropout: drop rate after every activation, in [0, 1); 0 by default.
        bias: whether the hidden linear layers have a bias (True by default); the head always has one. A norm with an
            offset of its own makes it redundant.
        init: weight law: "he" (default, N(0, 2/fan_in), made for ReLU), "lecun" (N(0, 1/fan_in)), "xavier", or
            "uniform" (U(+-1/sqrt(fan_in)), what ``nn.Linear`` does by itself). Biases start at 0. The head
            is drawn by "lecun" whatever ``init`` is, except for "uniform" and "xavier".

    Raises:
        ValueError: a size below 1, an unknown activation or init, dropout outside [0, 1), ``norm`` not callable.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> MLP(64, [128, 128], 10, norm=nn.LayerNorm)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        norm: NormFactory | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        bias: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__()
        widths = [
            _checks.size("in_features", in_features),
            *_checks.sizes("hidden", hidden, may_be_empty=True),
        ]
        _checks.size("out_features", out_features)
        _checks.probability("dropout", dropout)
        _checks.choice("init", init, INITS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    linear=linear(width_in, width, bias=bias, init=init),
                    norm=build("norm", norm, width),
                    activation=make_activation(activation),
                    dropout=nn.Dropout(dropout) if dropout else nn.Identity(),
                )
            )
            for width_in, width in pairwise(widths)
        )
        self.head = linear(widths[-1], out_features, init="lecun" if init == "he" else init)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head: the last hidden activations, (..., hidden[-1])."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        out: Tensor = self.head(self.features(x))
        return out
