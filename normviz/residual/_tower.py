"""The residual tower ``h_i = h_{i-1} + lam_i f_i(h_{i-1})`` between an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from normviz.residual.counting import residual_scale
from normviz.validation import check_integer, check_real

__all__ = ["ResidualTower", "parameter_options"]


def parameter_options(modules: Iterable[nn.Module]) -> dict[str, torch.dtype | torch.device]:
    """dtype and device of the first floating parameter of ``modules``; empty (torch's defaults) without one."""
    for module in modules:
        for p in module.parameters():
            if p.is_floating_point():
                return {"dtype": p.dtype, "device": p.device}
    return {}


class ResidualTower(nn.Module):
    """A tower of n residual modules: h_0 = encoder(x), h_i = h_{i-1} + lam_i f_i(h_{i-1}), output decoder(h_n).

    The scale multiplies the branch: not the skip, and not the branch's input. Under autocast the stream h keeps the
    dtype of x, where the sum of a large h and a small lam f would be rounded away in half precision.

    Args:
        modules: f_1..f_n, f_1 next to the input; each maps a tensor to one of the same shape. One module may stand at
            several places (tied weights).
        scale: lam for all, one number per module, or a rule: "one", "inv_sqrt" (1/sqrt(n)), "inv" (1/n; default, the
            paper's proposal). Any number is legal; with 0 the stream passes unchanged.
        learnable: train the scales (False).
        encoder: before the tower, or None (default).
        decoder: after it, or None (default).

    Attributes:
        blocks: ModuleList of the f_i (``modules`` is a method of every nn.Module).
        scales: lam_1..lam_n (n,) in the dtype of the modules' parameters; a Parameter if learnable, else a buffer.
        encoder, decoder: as given.

    Raises:
        ValueError: no module, a scale sequence of another length than n, an unknown rule, NaN as a scale; in forward: a
            module whose output has another shape than its input.

    Example:
        >>> tower = ResidualTower([nn.Linear(3, 3), nn.Tanh()], scale="inv")
        >>> tower.scales, tower(torch.ones(2, 3)).shape
        (tensor([0.5000, 0.5000]), torch.Size([2, 3]))

    Reference: Dherin, Munn 2025, arXiv 2510.03470: the tower of the Residual Expansion Theorem, and the scale 1/n
    that the paper proposes.
    """

    scales: Tensor

    def __init__(
        self,
        modules: Iterable[nn.Module],
        scale: float | Sequence[float] | str = "inv",
        learnable: bool = False,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(modules)
        n = len(self.blocks)
        if n == 0:
            raise ValueError("modules must hold at least one module, got none.")
        if isinstance(scale, Iterable) and not isinstance(scale, str):
            values = [check_real(f"scale[{i}]", s) for i, s in enumerate(scale)]
            if len(values) != n:
                raise ValueError(f"scale must have one entry per module ({n}), got {len(values)}.")
            self._scale = "per module"
        else:
            values = [residual_scale(n, scale)] * n
            self._scale = repr(scale)
        scales = torch.tensor(values, **parameter_options(self.blocks))  # type: ignore[arg-type]
        self.learnable = learnable
        if learnable:
            self.scales = nn.Parameter(scales)
        else:
            self.register_buffer("scales", scales)
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, x: Tensor) -> Tensor:
        """h_0 = encoder(x), in a dtype no narrower than that of x."""
        if self.encoder is None:
            return x
        h: Tensor = self.encoder(x)
        return h.to(torch.promote_types(h.dtype, x.dtype))

    def branch(self, i: int, h: Tensor) -> Tensor:
        """f_{i+1}(h), unscaled.

        Raises:
            ValueError: its shape is not that of ``h``.
        """
        f: Tensor = self.blocks[i](h)
        if f.shape != h.shape:
            raise ValueError(
                f"modules must keep the shape of their input, got {tuple(f.shape)} for {tuple(h.shape)} from module "
                f"{i}; put what changes it into encoder or decoder."
            )
        return f

    def features(self, x: Tensor, upto: int | None = None) -> list[Tensor]:
        """The stream h_0..h_upto, without the decoder.

        Args:
            x: input of the encoder.
            upto: last index, 0..n (n).

        Returns:
            upto + 1 tensors.

        Raises:
            ValueError: upto outside 0..n, a module that changes the shape.
        """
        n = len(self.blocks)
        upto = n if upto is None else check_integer("upto", upto, 0, n)
        stream = [self.encode(x)]
        for i in range(upto):
            h = stream[-1]
            stream.append(h + self.scales[i] * self.branch(i, h))
        return stream

    def forward(self, x: Tensor) -> Tensor:
        """decoder(h_n); inf and nan of an exploding tower are returned as they are."""
        h = self.features(x)[-1]
        if self.decoder is not None:
            h = self.decoder(h)
        return h

    def extra_repr(self) -> str:
        """Scale and whether it is learned, for ``repr``."""
        return f"scale={self._scale}, learnable={self.learnable}"
