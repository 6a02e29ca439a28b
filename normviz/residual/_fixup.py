"""Fixup: a branch with scalar biases and a multiplier, its initialisation by depth and its learning rates.

H. Zhang, Y. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without Normalization", 2019, arXiv 1901.09321.
Official code hongyi-zhang/Fixup followed (fan_out, order of the scalars), without its ReLU after the addition: the
stream must stay a plain sum for the expansion to hold.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from normviz.residual._branches import ACTIVATIONS, check_kernel_size
from normviz.residual._tower import ResidualTower
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["FixupBlock", "fixup_init_", "fixup_param_groups"]

_SCALARS = ("pre_bias", "act_bias", "multiplier", "out_bias")


class FixupBlock(nn.Module):
    """A Fixup branch (no skip, no activation after the addition) of m layers without bias.

    For j = 1..m: ``h = L_j(h + pre_bias[j])``, and for j < m ``h = act(h + act_bias[j])``; the output is
    ``multiplier * h + out_bias``. Initialised as in a tower of one block; :func:`fixup_init_` knows the depth.

    Args:
        dim: d of the input (..., d), or channels of (B, C, H, W) with ``kernel_size``.
        hidden: width of the inner layers (dim).
        activation: "relu" (default), "tanh" or "gelu".
        num_layers: m >= 2. Default 2 (the basic block; 3 is the bottleneck).
        kernel_size: None (default) for Linear layers, an odd integer for same-padded Conv2d layers.

    Attributes:
        layers: ModuleList of m bias-free layers.
        pre_bias: (m,), act_bias: (m - 1,), each entry one scalar bias; multiplier, out_bias: 0-dim. All Parameters.

    Raises:
        ValueError: a size below 1, num_layers < 2, even kernel_size, unknown activation.

    Reference: Zhang, Dauphin, Ma 2019 (Fixup), arXiv 1901.09321: the scalar biases and the multiplier of a branch,
    in the order of the official code.
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        activation: str = "relu",
        num_layers: int = 2,
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        check_integer("dim", dim, 1)
        hidden = dim if hidden is None else check_integer("hidden", hidden, 1)
        m = check_integer("num_layers", num_layers, 2)
        if kernel_size is not None:
            check_kernel_size(kernel_size)
        widths = [dim, *[hidden] * (m - 1), dim]
        self.layers = nn.ModuleList(
            nn.Linear(i, o, bias=False)
            if kernel_size is None
            else nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2, bias=False)
            for i, o in pairwise(widths)
        )
        self.activation = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]()
        self.pre_bias = nn.Parameter(torch.empty(m))
        self.act_bias = nn.Parameter(torch.empty(m - 1))
        self.multiplier = nn.Parameter(torch.empty(()))
        self.out_bias = nn.Parameter(torch.empty(()))
        _init_block(self, depth=1)

    def forward(self, x: Tensor) -> Tensor:
        """The branch f(x), without the skip."""
        h = self.layers[0](x + self.pre_bias[0])
        for j in range(1, len(self.layers)):
            h = self.activation(h + self.act_bias[j - 1])
            h = self.layers[j](h + self.pre_bias[j])
        out: Tensor = self.multiplier * h + self.out_bias
        return out


@torch.no_grad()
def _init_block(block: FixupBlock, depth: int) -> None:
    *inner, last = (layer.get_parameter("weight") for layer in block.layers)
    m = len(block.layers)
    for weight in inner:
        fan_out = weight.shape[0] * math.prod(weight.shape[2:])
        nn.init.normal_(weight, std=math.sqrt(2 / fan_out) * depth ** (-1 / (2 * m - 2)))
    nn.init.zeros_(last)
    nn.init.zeros_(block.pre_bias)
    nn.init.zeros_(block.act_bias)
    nn.init.ones_(block.multiplier)
    nn.init.zeros_(block.out_bias)


def fixup_init_(tower: ResidualTower) -> ResidualTower:
    """Initialise a tower of L :class:`FixupBlock` in place: the tower is the identity, and one step moves it by O(lr).

    Layers 1..m-1 of every block: N(0, 2 / fan_out) times L^(-1/(2m-2)), fan_out = out_features or
    out_channels * kernel_size^2; layer m zero; scalar biases 0, multipliers 1; a Linear ``decoder`` zero, so that all
    logits are 0. The encoder stays as it is.

    Returns:
        The tower.

    Raises:
        TypeError: a block that is not a FixupBlock (nothing is changed then).
    """
    for i, block in enumerate(tower.blocks):
        if not isinstance(block, FixupBlock):
            raise TypeError(f"tower.blocks[{i}] must be a FixupBlock, got {type(block).__name__}.")
    for block in tower.blocks:
        assert isinstance(block, FixupBlock)
        _init_block(block, depth=len(tower.blocks))
    if isinstance(tower.decoder, nn.Linear):
        nn.init.zeros_(tower.decoder.weight)
        if tower.decoder.bias is not None:
            nn.init.zeros_(tower.decoder.bias)
    return tower


def fixup_param_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Fixup's two groups of parameters: ``[{rest, lr}, {scalars, lr / 10}]`` (official CIFAR training script).

    Args:
        model: any module; the second group holds pre_bias, act_bias, multiplier and out_bias of all its FixupBlocks
            and is empty without one. Biases of encoder and decoder stay in the first.
        lr: learning rate, >= 0.

    Raises:
        ValueError: lr negative or NaN.
    """
    check_real("lr", lr, 0)
    scalars = [
        block.get_parameter(name)
        for block in model.modules()
        if isinstance(block, FixupBlock)
        for name in _SCALARS
    ]
    known = set(scalars)
    rest = [p for p in model.parameters() if p not in known]
    return [{"params": rest, "lr": lr}, {"params": scalars, "lr": lr / 10}]
