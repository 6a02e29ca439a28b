r"""Residual towers with a scale on every module, and the ways known to keep them trainable without normalization.

B. Dherin, M. Munn, "On residual network depth", 2025, arXiv 2510.03470. No official code.

A tower h_n = (1 + lam f_n) o ... o (1 + lam f_1)(x) is a sum over an ensemble of 2^n paths (``expansion.py``). With
lam = 1 it can grow like 2^n, which normalization used to hide; lam = 1/n bounds it whatever the paths do, 1/sqrt(n)
bounds it for paths that add up like independent ones. SkipInit, ReZero, Fixup and a norm in the branch are other ways
to a small effective lam.

=======================================================  ==========================================
h_i = h_{i-1} + lam_i f_i(h_{i-1}), decoder(h_n)          ``ResidualTower``
lam in {1, 1/sqrt(n), 1/n, any}                           ``residual_scale``
f = W_2 act([norm] W_1 x + b_1) + b_2                     ``MLPBlock``, ``ConvBlock``
alpha f(x), alpha learned from 0 (arXiv 2002.10444)       ``SkipInit`` = ``ReZero`` (arXiv 2003.04887)
Fixup (arXiv 1901.09321)                                  ``FixupBlock``, ``fixup_init_``, ``fixup_param_groups``
all of these on one classifier                            ``build_tower``
=======================================================  ==========================================

Branches carry no skip: the tower adds it.
"""

from __future__ import annotations

import torch
from torch import nn

from normviz.residual._branches import ConvBlock, MLPBlock, ReZero, SkipInit
from normviz.residual._fixup import FixupBlock, fixup_init_, fixup_param_groups
from normviz.residual._tower import ResidualTower
from normviz.residual.counting import residual_scale
from normviz.validation import check_choice, check_integer

__all__ = [
    "ConvBlock",
    "FixupBlock",
    "MLPBlock",
    "ReZero",
    "ResidualTower",
    "SkipInit",
    "build_tower",
    "fixup_init_",
    "fixup_param_groups",
    "residual_scale",
]

_METHODS = ("plain", "inv_sqrt", "inv", "skipinit", "fixup", "batchnorm", "layernorm")
_NORM_OF = {"batchnorm": "batch", "layernorm": "layer"}


def build_tower(
    depth: int,
    dim: int = 32,
    num_classes: int = 10,
    method: str = "inv_sqrt",
    activation: str = "relu",
    in_dim: int = 64,
    seed: int = 0,
) -> ResidualTower:
    """A classifier: Linear(in_dim, dim), ``depth`` branches of two layers, Linear(dim, num_classes).

    ==============================  ==========================================================
    "plain", "inv_sqrt", "inv"       MLPBlocks, scale 1, 1/sqrt(depth), 1/depth
    "skipinit"                       MLPBlocks in SkipInit(0), scale 1
    "fixup"                          FixupBlocks under ``fixup_init_``, scale 1
    "batchnorm", "layernorm"         MLPBlocks with the norm, scale 1
    ==============================  ==========================================================

    Args:
        depth: n, number of branches.
        dim: width of the stream. Default 32 (digits demo).
        num_classes: number of logits (10).
        method: a name of the table ("inv_sqrt").
        activation: "relu" (default), "tanh" or "gelu".
        in_dim: features of the input (64: 8 x 8 digits).
        seed: of all weights (0). All methods but fixup share their weights, fixup the encoder only; the global random
            state is left untouched.

    Returns:
        The tower, in the default dtype on the default device.

    Raises:
        ValueError: a size below 1, unknown method or activation, negative seed.

    Example:
        >>> build_tower(4, method="fixup")(torch.randn(2, 64)).abs().max().item()
        0.0
    """
    check_integer("depth", depth, 1)
    check_integer("dim", dim, 1)
    check_integer("num_classes", num_classes, 1)
    check_choice("method", method, _METHODS)
    check_integer("in_dim", in_dim, 1)
    check_integer("seed", seed, 0, 2**63 - 1)
    # Weights are drawn on the CPU by its own generator: torch.manual_seed would reseed every accelerator as well.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        encoder, decoder = nn.Linear(in_dim, dim), nn.Linear(dim, num_classes)
        branches = [_branch(method, dim, activation) for _ in range(depth)]
        scale = method if method in {"inv_sqrt", "inv"} else "one"
        tower = ResidualTower(branches, scale, encoder=encoder, decoder=decoder)
        if method == "fixup":
            fixup_init_(tower)
    return tower.to(torch.get_default_device())


def _branch(method: str, dim: int, activation: str) -> nn.Module:
    if method == "fixup":
        return FixupBlock(dim, activation=activation)
    block = MLPBlock(dim, activation=activation, norm=_NORM_OF.get(method))
    return SkipInit(block) if method == "skipinit" else block
