r"""Normalize-and-Project (NaP): make the effective learning rate what the schedule says.

Clare Lyle, Zeyu Zheng, Khimya Khetarpal, James Martens, Hado van Hasselt, Razvan Pascanu, Will Dabney, "Normalization
and effective learning rates in reinforcement learning", NeurIPS 2024, arXiv 2407.01800. No official code was found.

A norm after a linear layer makes it scale-invariant: f(c W) = f(W), so the gradient at c W is 1/c of that at W. As W
grows, an unchanged learning rate moves the function ever less. In continual and reinforcement learning this hidden
decay can bring learning to a halt. NaP (1) puts a norm before every nonlinearity and (2) rescales each weight tensor to
its initial norm after each update. Only the explicit schedule is left.

Notation: rho_l initial norm of W_l, eta learning rate, (sigma, mu) scale and offset of a norm.

    Norm before every f; LN or RMS, eps, sigma, mu           FeatureNorm, insert_normalization, NaPMLP, NaPConvNet
    W_l <- rho_l W_l / ||W_l||_F                             NormProjector
    lr_eff = eta / ||W||^2 (SGD), eta / ||W|| (Adam)         effective_learning_rate

Exact for a scale-invariant layer under plain SGD (no momentum, no weight decay):

    <grad, W> = 0,    ||W_{t+1}||^2 = ||W_t||^2 + eta^2 ||grad||^2
    NaP with eta  ==  un-projected with lr_l = eta (||W_l||/rho_l)^2         normviz.schedules.MatchedEffectiveLR
    un-projected with eta  ==  NaP with lr_l(t) = eta (rho_l/||W_l(t)||)^2   normviz.schedules.ImplicitScheduleReplay

Under Adam both hold approximately, with first powers (its moments mix scales, and eps has one of its own).

Confirmed from the paper's abstract and figures: the norm, the projection to the initial norm, layer-wise against global
rescaling, the need for an explicit decay in RL. Choices of this project where the paper's are not known: the output
layer is not projected (its scale is that of the logits), biases before a norm are removed, the strength of
"regularize". Public copies project to one radius for each tensor, as here; normalising each *row* is weight norm,
another method. One copy projects (sigma, mu) to sqrt(2), which is right for two features only; for d it is sqrt(d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms.feature_norm import NORM_EPS, FeatureNorm
from normviz.norms.norm_insertion import insert_normalization
from normviz.norms.norm_projector import NormProjector
from normviz.norms.plasticity import (
    dormant_fraction,
    effective_learning_rate,
    gradient_norms,
    parameter_norms,
)
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "FeatureNorm",
    "NaPConvNet",
    "NaPMLP",
    "NormProjector",
    "dormant_fraction",
    "effective_learning_rate",
    "gradient_norms",
    "insert_normalization",
    "parameter_norms",
]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def _check(norm: str | None, activation: str, eps: float | None) -> None:
    if norm is not None:
        check_choice("norm", norm, NORM_EPS)
    check_choice("activation", activation, _ACTIVATIONS)
    if eps is not None:
        check_real("eps", eps, 0, high_open=True)


class NaPMLP(nn.Module):
    """Linear without bias -> norm -> activation per hidden layer, then Linear with bias, all in ``layers``.

    Weights start as ``nn.Linear`` draws them. For two networks with the same weights, one with norms and one without,
    use :func:`insert_normalization` on the second.

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        hidden: widths of the hidden layers. Default (256, 256).
        norm: "layer" (default), "rms", or None: no norm and Linear layers with bias (the plain baseline).
        activation: "relu" (default), "leaky_relu", "tanh", "gelu", "sigmoid" or "identity".
        affine: the norms have scale and offset. Default True.
        eps: of the norms. Default None: 1e-5 for "layer", 1e-6 for "rms".
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: a size below 1, a hidden width of 1 under "layer", unknown norm or activation, ``eps`` < 0.

    Example:
        >>> import torch
        >>> NaPMLP(64, 10, hidden=(128, 128))(torch.randn(5, 64)).shape
        torch.Size([5, 10])

    Reference: Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv
        2407.01800.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (256, 256),
        norm: str | None = "layer",
        activation: str = "relu",
        affine: bool = True,
        eps: float | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(norm, activation, eps)
        widths = [
            check_integer("in_dim", in_dim, 1),
            *(check_integer("hidden", width, 1) for width in hidden),
        ]
        check_integer("out_dim", out_dim, 1)
        layers: list[nn.Module] = []
        for width_in, width in pairwise(widths):
            layers.append(nn.Linear(width_in, width, bias=norm is None))
            if norm is not None:
                layers.append(FeatureNorm(width, norm, eps=eps, affine=affine))
            layers.append(_ACTIVATIONS[activation]())
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_dim))
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        y: Tensor = self.layers(x)
        return y


class NaPConvNet(nn.Module):
    """3 x 3 convolutions of stride 2 and padding 1, each with norm and activation, mean over pixels, Linear ``head``.

    The norms take their statistics over channels and pixels of one sample together.

    Args:
        in_channels: channels of the image.
        out_dim: width of the output.
        channels: output channels of the convolutions. Default (16, 32).
        norm: "layer" (default), "rms", or None: no norm and convolutions with bias.
        activation: "relu" (default), "leaky_relu", "tanh", "gelu", "sigmoid" or "identity".
        affine: the norms have scale and offset, one per channel. Default True.
        eps: of the norms. Default None: 1e-5 for "layer", 1e-6 for "rms".
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: a size below 1, unknown norm or activation, ``eps`` < 0.

    Example:
        >>> import torch
        >>> NaPConvNet(1, 10)(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 10])

    Reference: Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv
        2407.01800.
    """

    def __init__(
        self,
        in_channels: int,
        out_dim: int,
        channels: Sequence[int] = (16, 32),
        norm: str | None = "layer",
        activation: str = "relu",
        affine: bool = True,
        eps: float | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(norm, activation, eps)
        widths = [
            check_integer("in_channels", in_channels, 1),
            *(check_integer("channels", width, 1) for width in channels),
        ]
        check_integer("out_dim", out_dim, 1)
        layers: list[nn.Module] = []
        for width_in, width in pairwise(widths):
            layers.append(nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=norm is None))
            if norm is not None:
                layers.append(FeatureNorm(width, norm, spatial=True, eps=eps, affine=affine))
            layers.append(_ACTIVATIONS[activation]())
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], out_dim)
        place(self, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (..., in_channels, H, W) to (..., out_dim)."""
        features = self.layers(x).mean((-2, -1))  # (..., C)
        y: Tensor = self.head(features)
        return y
