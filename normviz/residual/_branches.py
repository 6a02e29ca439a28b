"""Residual branches without their skip: two layers with an optional norm, and the SkipInit multiplier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from normviz.residual._tower import parameter_options
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "ACTIVATIONS",
    "ConvBlock",
    "MLPBlock",
    "ReZero",
    "SkipInit",
    "TwoLayerBranch",
    "check_kernel_size",
]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
_INITS = ("he", "fixup_first_zero_last")
_NORMS = ("batch", "layer")


class SkipInit(nn.Module):
    """A branch times one learnable scalar, ``alpha * module(x)``; the tower (with scale="one") adds the skip.

    De, Smith, "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks", 2020, arXiv
    2002.10444. At alpha = 0 the tower is the identity and only the alphas receive a gradient inside a branch; its
    weights move from the second step on. ``ReZero`` (Bachlechner et al., 2020, arXiv 2003.04887) is the same class.

    Args:
        module: the branch.
        init: first value of alpha. Default 0 (the paper); 1/sqrt(n) is its other suggestion.

    Attributes:
        module: the branch.
        alpha: 0-dim Parameter in the dtype of the branch's parameters.

    Raises:
        ValueError: ``init`` is no number.

    Example:
        >>> SkipInit(nn.Linear(2, 2))(torch.ones(1, 2)).abs().sum().item()
        0.0
    """

    def __init__(self, module: nn.Module, init: float = 0.0) -> None:
        super().__init__()
        check_real("init", init)
        self.module = module
        self.alpha = nn.Parameter(torch.tensor(float(init), **parameter_options([module])))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """alpha * module(x)."""
        out: Tensor = self.alpha * self.module(x)
        return out


ReZero = SkipInit


class TwoLayerBranch(nn.Module):
    """first layer -> [norm] -> activation -> last layer.

    "he" draws both weights from N(0, 2 / fan_in) whatever the activation; "fixup_first_zero_last" the first alone and
    sets the last to zero. Biases are 0.
    """

    def __init__(
        self, first: nn.Module, norm: nn.Module | None, activation: str, last: nn.Module, init: str
    ) -> None:
        super().__init__()
        self.first = first
        self.norm = norm
        self.activation = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]()
        self.last = last
        check_choice("init", init, _INITS)
        for layer, zero in ((first, False), (last, init == "fixup_first_zero_last")):
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            nn.init.zeros_(bias)
            if zero:
                nn.init.zeros_(weight)
            else:
                nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The branch f(x), without the skip."""
        a = self.first(x)
        if self.norm is not None:
            a = self.norm(a)
        out: Tensor = self.last(self.activation(a))
        return out


class MLPBlock(TwoLayerBranch):
    """A branch (no skip): Linear(dim, hidden) -> [norm] -> activation -> Linear(hidden, dim), both with bias.

    f(h) = W_2 act(norm(W_1 h + b_1)) + b_2.

    With a norm and ReLU the output has unit variance at initialisation (half the second moment of the normalised
    units passes, times 2); with tanh and GELU, which keep 0.39 and 0.43 of it, about 0.79 and 0.85.

    Args:
        dim: d of the input (..., d).
        hidden: width of the inner layer (dim).
        activation: "relu" (default), "tanh" or "gelu" (exact).
        norm: None (default), "batch" (BatchNorm1d, for (B, d)) or "layer" (LayerNorm over hidden).
        init: "he" (default): weights N(0, 2 / fan_in) for every activation; "fixup_first_zero_last": the first layer
            the same without Fixup's depth factor, as a block does not know the depth, the last layer zero. Biases 0.

    Raises:
        ValueError: a size below 1, unknown activation, norm or init.

    Reference: none, no paper: a plain module f_i for the towers of Dherin, Munn 2025, arXiv 2510.03470.
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        activation: str = "relu",
        norm: str | None = None,
        init: str = "he",
    ) -> None:
        check_integer("dim", dim, 1)
        hidden = dim if hidden is None else check_integer("hidden", hidden, 1)
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        super().__init__(
            nn.Linear(dim, hidden),
            None if norm is None else norms[check_choice("norm", norm, _NORMS)](hidden),
            activation,
            nn.Linear(hidden, dim),
            init,
        )


def check_kernel_size(kernel_size: int) -> int:
    """Return ``kernel_size`` if a same-padded, stride-1 convolution of that size keeps the image's size.

    Raises:
        ValueError: not an odd integer >= 1.
    """
    if check_integer("kernel_size", kernel_size, 1) % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}.")
    return kernel_size


class ConvBlock(TwoLayerBranch):
    """A branch (no skip) on images [B, C, H, W]: conv -> [norm] -> activation -> conv, stride 1, size kept.

    Args:
        channels: C.
        hidden: channels of the inner layer (channels).
        kernel_size: odd. Default 3.
        activation: "relu" (default), "tanh" or "gelu" (exact).
        norm: None (default), "batch" (BatchNorm2d) or "layer" (GroupNorm(1, hidden)).
        init: as in :class:`MLPBlock`, with fan_in = channels in * kernel_size^2.

    Raises:
        ValueError: a size below 1, even kernel_size, unknown activation, norm or init.

    Reference: none, no paper: a plain module f_i for the towers of Dherin, Munn 2025, arXiv 2510.03470.
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        kernel_size: int = 3,
        activation: str = "relu",
        norm: str | None = None,
        init: str = "he",
    ) -> None:
        check_integer("channels", channels, 1)
        hidden = channels if hidden is None else check_integer("hidden", hidden, 1)
        check_kernel_size(kernel_size)
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "layer": lambda width: nn.GroupNorm(1, width),
        }
        super().__init__(
            nn.Conv2d(channels, hidden, kernel_size, padding=kernel_size // 2),
            None if norm is None else norms[check_choice("norm", norm, _NORMS)](hidden),
            activation,
            nn.Conv2d(hidden, channels, kernel_size, padding=kernel_size // 2),
            init,
        )
