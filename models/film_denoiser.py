r"""A denoiser for diffusion on small vectors, conditioned by a token that scales and shifts its hidden layers.

Feature-wise linear modulation: Perez, Strub, de Vries, Dumoulin, Courville 2018, "FiLM: Visual Reasoning with a General
Conditioning Layer", arXiv 1709.07871. One hidden layer, in order:

    h  <- norm(linear(h))
    (g, b) = film(token)            one linear layer, token [n]
    h  <- activation(h (1 + g) + b)

The first layer reads x and the time. The token is what a text embedding is in a text-to-image model, and ``film`` is
the counterpart of the projections that read it: the only layers whose input depends on the concept.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, build, linear, make_activation

__all__ = ["FiLMDenoiser"]

MAX_PERIOD = 10000.0
"""Longest wavelength of a time embedding over 2 pi, as in Vaswani et al. 2017, arXiv 1706.03762."""


class FiLMDenoiser(nn.Module):
    """eps_theta(x, t, token): linear -> norm -> FiLM -> activation per hidden width, then a plain linear ``head``.

    Layers are ``blocks.<i>.linear``, ``.norm``, ``.film`` and ``.activation``. At the start the token has entries
    N(0, 1/n), a norm of about 1, and ``film`` is drawn from U(+-1/sqrt(n)), so that g and b are near 0. The size of the
    token matters when it is trained: a step of Adam does not depend on it, so that a token with entries near 1 keeps
    its direction, while this one turns.

    Args:
        in_features: width of x. Default 2.
        hidden: widths of the hidden layers. Default (128, 128, 128).
        token_features: n, width of the token. Default 256.
        time_features: width of the sinusoidal time embedding, even. Default 32.
        norm: width -> norm layer, or None (default) for no norm.
        activation: a name ("silu" by default) or a factory without arguments.

    Attributes:
        token: parameter [n], what the network is conditioned by unless a token is given.

    Raises:
        ValueError: a size below 1, odd time_features, an unknown activation, ``norm`` not callable.

    Example:
        >>> net = FiLMDenoiser(token_features=16)
        >>> net(torch.zeros(5, 2), torch.arange(5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int = 2,
        hidden: Sequence[int] = (128, 128, 128),
        *,
        token_features: int = 256,
        time_features: int = 32,
        norm: NormFactory | None = None,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        _checks.size("in_features", in_features)
        _checks.size("token_features", token_features)
        self.time_features = _checks.size("time_features", time_features, 2)
        if time_features % 2:
            raise ValueError(f"time_features must be even, got {time_features}.")
        widths = [in_features + time_features, *_checks.sizes("hidden", hidden)]
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                OrderedDict(
                    linear=linear(width_in, width),
                    norm=build("norm", norm, width),
                    film=linear(token_features, 2 * width, init="uniform"),
                    activation=make_activation(activation),
                )
            )
            for width_in, width in pairwise(widths)
        )
        self.head = linear(widths[-1], in_features, init="lecun")
        self.token = nn.Parameter(torch.randn(token_features) / math.sqrt(token_features))

    def embed_time(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Sines and cosines [..., time_features] of the times t [...], of wavelengths 2 pi to 20000 pi.

        Computed in ``dtype``, but at least in float32: half types cannot tell large times apart.
        """
        wide = torch.promote_types(dtype, torch.float32)
        half = self.time_features // 2
        steps = torch.arange(half, dtype=wide, device=t.device) / half
        angles = t.to(wide)[..., None] * torch.exp(-math.log(MAX_PERIOD) * steps)
        return torch.cat((angles.sin(), angles.cos()), -1)

    def forward(self, x: Tensor, t: Tensor, token: Tensor | None = None) -> Tensor:
        """The noise in x.

        Args:
            x: [..., in_features].
            t: times [...], of any dtype, or one that broadcasts to x's leading axes.
            token: [n] or [..., n]. None: the network's own.

        Returns:
            [..., in_features].
        """
        token = self.token if token is None else token
        time = self.embed_time(t, x.dtype).to(x.dtype).expand(*x.shape[:-1], -1)
        h = torch.cat((x, time), -1)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            scale, shift = block["film"](token).chunk(2, -1)
            h = block["activation"](block["norm"](block["linear"](h)) * (1 + scale) + shift)
        out: Tensor = self.head(h)
        return out
