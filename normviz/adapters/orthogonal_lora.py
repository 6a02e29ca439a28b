r"""Layers of Orthogonal Adaptation: one factor is a frozen random frame, only the other is trained.

Po, Yang, Aberman, Wetzstein 2024, CVPR 2024, arXiv 2312.02432. For a layer ``l(x) = theta x``, theta [out, in]:

    Delta theta = s A B^T         A [out, r] trained, 0 at the start; B [in, r] frozen  (orthogonal_frames)
    Y = X theta^T + s (X B) A^T
    dL/dA = s G^T (X B),          G = dL/dY

In LoRA's names A is the up-projection and B^T the down-projection. It is the input side that is frozen: the residuals
of two concepts then read different directions of the input. A frozen A would make them write different directions,
another property. Every layer is linear in what is trained.

The gradient goes through B to the layer's input. It has to: a concept's token is trained together with A, and moves
into span(B), where the frames of the other concepts do not see it. With the token frozen most of the effect is lost,
and where all concepts share the input the method separates weights but not functions.

The paper's scale s is not confirmed; s = 1 is the default here, and alpha / r if alpha is given.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.adapters._values import at_least_float32, check_floating, full_precision
from normviz.adapters.adapter_init import adapter_scaling
from normviz.adapters.orthogonal_frames import draw_frame
from normviz.validation import check_integer

__all__ = ["OrthogonalLoRAConv2d1x1", "OrthogonalLoRALinear"]


class _OrthogonalAdapter(nn.Module):
    """What both layers share: the frame, the trained factor, and what is saved of them."""

    weight: Tensor
    bias: Tensor | None
    basis: Tensor

    def __init__(
        self,
        base: nn.Linear | nn.Conv2d,
        in_features: int,
        out_features: int,
        r: int,
        method: str,
        concept: int,
        seed: int,
        alpha: float | None,
        key: str,
    ) -> None:
        super().__init__()
        check_floating("base.weight", base.weight)
        self.r = check_integer("r", r, 1, in_features)
        self.scaling = adapter_scaling(alpha, self.r)
        basis, self.columns = draw_frame(in_features, self.r, method, seed, concept, key)
        self.method, self.concept, self.seed = method, int(concept), int(seed)
        weight = base.weight.detach()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())
        self.register_buffer("basis", basis.to(weight))
        self.lora_up = nn.Parameter(weight.new_zeros(out_features, self.r))
        self.train(base.training)

    def _delta(self) -> Tensor:
        """s A B^T [out, in]."""
        return self.scaling * (self.lora_up @ self.basis.mT)

    def _merge_into(self, plain: nn.Linear | nn.Conv2d) -> None:
        """Fill a layer on the meta device with the weight plus delta and a copy of the bias."""
        plain.to_empty(device=self.weight.device)
        with torch.no_grad(), full_precision(self.weight):
            wide = at_least_float32(self.weight)
            delta = self.scaling * (self.lora_up.to(wide) @ self.basis.to(wide).mT)
            plain.weight.copy_(self.weight.to(wide) + delta.view_as(self.weight))
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        plain.train(self.training)

    def get_extra_state(self) -> dict[str, Any]:
        """The scaling, and where the frame comes from: they belong to the saved factors."""
        return {
            "scaling": self.scaling,
            "method": self.method,
            "concept": self.concept,
            "seed": self.seed,
            "columns": self.columns,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what a saved layer says of its factors."""
        self.scaling, self.method = float(state["scaling"]), str(state["method"])
        self.concept, self.seed = int(state["concept"]), int(state["seed"])
        self.columns = None if state["columns"] is None else state["columns"].cpu()

    def _origin(self) -> str:
        return f"r={self.r}, method={self.method!r}, concept={self.concept}, seed={self.seed}, scaling={self.scaling:g}"


class OrthogonalLoRALinear(_OrthogonalAdapter):
    r"""``y = x theta^T + b + s (x B) A^T``: only A is trained, B is a frozen random frame.

    Po et al. 2024 (Orthogonal Adaptation), arXiv 2312.02432. The output at the start is the base layer's. The adapted
    layer of LoRA, where both factors are trained, is :class:`~normviz.adapters.LoRALinear`.

    Args:
        base: its weight and bias are copied, with their dtype and device; it is left alone.
        r: rank, 1..in. The paper's is not confirmed.
        method: how B is drawn: "orthogonal" (default, the paper's main choice), "gaussian" or "disjoint", see
            :func:`~normviz.adapters.concept_basis`.
        concept: the concept's own seed, any integer; its number for "disjoint". Default 0.
        seed: of the matrix that all concepts share, any integer. Default 0.
        alpha: s = alpha / r, > 0. None (default): s = 1.
        key: the layer's name, so that layers draw different frames. Default "".

    Attributes:
        lora_up: parameter A [out, r], zeros at the start.
        basis: buffer B [in, r]; a checkpoint carries it, and so does not depend on how it was drawn.
        weight: buffer theta [out, in].
        bias: buffer [out], or None.
        scaling: s. It, method, concept, seed and columns are saved and loaded with the state.
        columns: int64 [r], the columns of the shared matrix that B holds; None for "gaussian".
        in_features, out_features, r: sizes.

    Shape:
        [..., in] -> [..., out].

    Raises:
        ValueError: r, alpha, seed or concept out of range, unknown method.
        TypeError: base is not an nn.Linear, or not floating.

    Example:
        >>> layer = OrthogonalLoRALinear(nn.Linear(6, 4), r=2, concept=7)
        >>> [name for name, _ in layer.named_parameters()]
        ['lora_up']
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        *,
        method: str = "orthogonal",
        concept: int = 0,
        seed: int = 0,
        alpha: float | None = None,
        key: str = "",
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be an nn.Linear, got {type(base).__name__}.")
        super().__init__(base, base.in_features, base.out_features, r, method, concept, seed, alpha, key)
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [..., out] for x [..., in]."""
        down = F.linear(x, self.basis.mT)  # [..., r]
        return F.linear(x, self.weight, self.bias) + self.scaling * F.linear(down, self.lora_up)

    def delta_weight(self) -> Tensor:
        """``s A B^T`` [out, in]: what the adapter adds to theta."""
        return self._delta()

    def merge(self) -> nn.Linear:
        """An ordinary linear layer with weight ``theta + s A B^T`` and its own copies of everything."""
        plain = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device="meta",
            dtype=self.weight.dtype,
        )
        self._merge_into(plain)
        return plain

    def extra_repr(self) -> str:
        """Sizes and where the frame comes from."""
        return f"{self.in_features}, {self.out_features}, {self._origin()}, bias={self.bias is not None}"


class OrthogonalLoRAConv2d1x1(_OrthogonalAdapter):
    r"""The same for a 1x1 convolution, which is a linear layer on the channels of every pixel.

    Po et al. 2024 (Orthogonal Adaptation), arXiv 2312.02432; attention blocks of diffusion models have such layers.
    Arguments, attributes and the output at the start are those of :class:`OrthogonalLoRALinear`, with in and out the
    numbers of channels. Stride and padding of the base are kept.

    Args:
        base: a convolution with kernel 1x1 and groups 1. It is left alone.
        r: rank, 1..in.
        method, concept, seed, alpha, key: as in :class:`OrthogonalLoRALinear`.

    Attributes:
        lora_up: parameter A [out, r].
        basis: buffer B [in, r].
        weight: buffer [out, in, 1, 1].
        bias: buffer [out], or None.
        in_channels, out_channels, stride, padding, padding_mode: those of the base.

    Shape:
        [N, in, H, W] -> [N, out, H', W'], or without N.

    Raises:
        ValueError: another kernel or groups > 1; r, alpha, seed or concept out of range, unknown method.
        TypeError: base is not an nn.Conv2d, or not floating.

    Example:
        >>> layer = OrthogonalLoRAConv2d1x1(nn.Conv2d(6, 4, 1), r=2)
        >>> layer.delta_weight().shape
        torch.Size([4, 6, 1, 1])
    """

    def __init__(
        self,
        base: nn.Conv2d,
        r: int,
        *,
        method: str = "orthogonal",
        concept: int = 0,
        seed: int = 0,
        alpha: float | None = None,
        key: str = "",
    ) -> None:
        if not isinstance(base, nn.Conv2d):
            raise TypeError(f"base must be an nn.Conv2d, got {type(base).__name__}.")
        if tuple(base.kernel_size) != (1, 1):
            raise ValueError(f"base must have a kernel of 1x1, got kernel_size={tuple(base.kernel_size)}.")
        if base.groups != 1:
            raise ValueError(f"base must have groups=1, got groups={base.groups}.")
        super().__init__(base, base.in_channels, base.out_channels, r, method, concept, seed, alpha, key)
        self.in_channels, self.out_channels = base.in_channels, base.out_channels
        self.stride, self.padding, self.padding_mode = base.stride, base.padding, base.padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [N, out, H', W'] for x [N, in, H, W]."""
        padding = self.padding
        if self.padding_mode != "zeros" and not isinstance(padding, str):
            rows, columns = padding
            x = F.pad(x, (columns, columns, rows, rows), mode=self.padding_mode)
            padding = (0, 0)
        plain = F.conv2d(x, self.weight, self.bias, self.stride, padding)
        down = F.conv2d(x, self.basis.mT[..., None, None], None, self.stride, padding)  # [N, r, H', W']
        return plain + self.scaling * F.conv2d(down, self.lora_up[..., None, None])

    def delta_weight(self) -> Tensor:
        """``s A B^T`` as a kernel [out, in, 1, 1]: what the adapter adds to the weight."""
        return self._delta()[..., None, None]

    def merge(self) -> nn.Conv2d:
        """An ordinary convolution with the summed weight, and its own copies of everything."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            1,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            padding_mode=self.padding_mode,
            bias=self.bias is not None,
            device="meta",
            dtype=self.weight.dtype,
        )
        self._merge_into(plain)
        return plain

    def extra_repr(self) -> str:
        """Sizes and where the frame comes from."""
        text = f"{self.in_channels}, {self.out_channels}, stride={self.stride}, padding={self.padding}"
        return f"{text}, {self._origin()}, bias={self.bias is not None}"
