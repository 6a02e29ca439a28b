"""Rotary position tables over a line or a grid.

Frequencies run over f = 10000^(-linspace(0, 1, m)), both ends 1 and 1/10000 included (as in the NaLaFormer release,
unlike RoFormer's). Channels are paired (even, odd), and both of a pair carry the same angle position * f.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.validation import check_integer

__all__ = ["apply_rotary", "rope_1d", "rope_2d", "rope_at"]


def _frequencies(count: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """(2 * count,): each frequency twice, for the two channels of its pair."""
    exponents = torch.linspace(0, 1, count, device=device, dtype=dtype)
    return (10000.0**-exponents).repeat_interleave(2)


def rope_at(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """(sin, cos) [N, head_dim] of a line at the given positions (N,), in their dtype.

    Raises:
        ValueError: head_dim odd or below 2.
    """
    if check_integer("head_dim", head_dim, 2) % 2:
        raise ValueError(f"head_dim must be even for 1D rotary, got {head_dim}.")
    angles = positions[:, None] * _frequencies(head_dim // 2, positions.device, positions.dtype)
    return angles.sin(), angles.cos()


def rope_1d(
    N: int, head_dim: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Rotary tables of positions 0..N-1: channel pair i turns by position * f_i, f = 10000^(-linspace(0, 1, d/2)).

    Args:
        N: number of positions.
        head_dim: d, even.
        device, dtype: of the tables (torch's defaults).

    Returns:
        (sin, cos), each [N, d].

    Raises:
        ValueError: N < 1, head_dim odd or below 2.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return rope_at(torch.arange(check_integer("N", N, 1), device=device, dtype=dtype), head_dim)


def rope_2d(
    H: int,
    W: int,
    head_dim: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Rotary tables of an H x W grid, row-major: d/2 channels turn by row * f, d/2 by column * f.

    f = 10000^(-linspace(0, 1, d/4)), each value for a pair of channels.

    Args:
        H, W: rows and columns.
        head_dim: d, a multiple of 4.
        device, dtype: of the tables (torch's defaults).

    Returns:
        (sin, cos), each [H * W, d].

    Raises:
        ValueError: H or W < 1, head_dim no positive multiple of 4.

    Example:
        >>> sin, cos = rope_2d(2, 3, 8)
        >>> sin.shape, sin[0].abs().max().item()  # position (0, 0) turns nothing
        (torch.Size([6, 8]), 0.0)
    """
    check_integer("H", H, 1)
    check_integer("W", W, 1)
    if check_integer("head_dim", head_dim, 4) % 4:
        raise ValueError(f"head_dim must be a multiple of 4 for 2D rotary, got {head_dim}.")
    f = _frequencies(head_dim // 4, device, dtype)  # (d/2,)
    rows = torch.arange(H, device=device, dtype=f.dtype)[:, None] * f
    columns = torch.arange(W, device=device, dtype=f.dtype)[:, None] * f
    half = head_dim // 2
    grid = (rows[:, None].expand(H, W, half), columns.expand(H, W, half))
    angles = torch.cat(grid, dim=-1).reshape(H * W, head_dim)
    return angles.sin(), angles.cos()


def apply_rotary(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn the channel pairs of x: (a, b) -> (a cos - b sin, b cos + a sin). Norms of pairs are kept.

    Args:
        x: [..., N, d], or [..., N, m d]: each d-wide part is turned by the same table.
        sin, cos: [N, d].

    Returns:
        x's shape and dtype.

    Raises:
        ValueError: tables of different shape or not 2-D, N or d that do not fit x.
    """
    if sin.shape != cos.shape or sin.ndim != 2 or sin.shape[0] != x.shape[-2] or x.shape[-1] % sin.shape[1]:
        raise ValueError(
            f"sin and cos must have shape (N, d) with N = {x.shape[-2]} and d a divisor of {x.shape[-1]}, got "
            f"{tuple(sin.shape)} and {tuple(cos.shape)}."
        )
    parts = x.reshape(*x.shape[:-1], -1, sin.shape[1]).transpose(-2, -3)  # (..., m, N, d)
    a, b = parts[..., 0::2], parts[..., 1::2]
    turned = torch.stack((-b, a), dim=-1).flatten(-2)
    out: Tensor = parts * cos + turned * sin
    return out.transpose(-2, -3).flatten(-2).to(x.dtype)
