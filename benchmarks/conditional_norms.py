"""Norms whose scale and shift another input computes, beside torch's norms of the same shape.

    python -m benchmarks.conditional_norms

Forward and backward in training mode, one thread, float32. A layer and its baseline take turns, so that a busy machine
slows both; shown are the median, lowest and highest ratio of processor times. What a ratio above 1 pays for are the
convolutions that compute scale and shift: LOAN has two from the map's channels, SPADE and SSTAN three with a hidden
layer of 32 channels, SEAN five and a linear layer per region. The vision-infused norm is in ``vision_modulation``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.report import paired_ratio, report
from normviz.norms import LOAN, SEAN, SPADE, SSTAN, StyleOnlyNorm

CHANNELS, LABELS, LATENT, HIDDEN = 32, 4, 16, 32
GROUPS = 8
VOLUME, IMAGE = (16, CHANNELS, 8, 13, 13), (16, CHANNELS, 16, 16)

Call = Callable[[Tensor], Tensor]


def seconds(call: Call, x: Tensor) -> float:
    """Processor time of a forward and a backward pass."""
    start = time.thread_time()
    call(x).square().sum().backward()
    return time.thread_time() - start


def volume_baselines() -> dict[str, nn.Module]:
    """torch's norms of a volume (N, C, D, H, W)."""
    return {
        "BatchNorm3d": nn.BatchNorm3d(CHANNELS),
        "GroupNorm": nn.GroupNorm(GROUPS, CHANNELS),
        "LayerNorm": nn.LayerNorm(VOLUME[1:]),
    }


def image_baselines() -> dict[str, nn.Module]:
    """torch's norms of an image (N, C, H, W)."""
    return {
        "BatchNorm2d": nn.BatchNorm2d(CHANNELS),
        "GroupNorm": nn.GroupNorm(GROUPS, CHANNELS),
        "LayerNorm": nn.LayerNorm(IMAGE[1:]),
    }


def volume_layers() -> dict[str, Call]:
    """LOAN with a map of as many channels."""
    cond = torch.randn(VOLUME[0], CHANNELS, *VOLUME[-2:])
    layer, unnormed = LOAN(CHANNELS, CHANNELS), LOAN(CHANNELS, CHANNELS, norm=False)
    return {"LOAN": lambda x: layer(x, cond), "LOAN, norm=False": lambda x: unnormed(x, cond)}


def image_layers() -> dict[str, Call]:
    """Norms that see a layout, a style or both."""
    n, _, height, width = IMAGE
    segmap = torch.randint(LABELS, (n, height, width))
    z, styles = torch.randn(n, LATENT), torch.randn(n, LABELS, LATENT)
    spade = SPADE(CHANNELS, LABELS, hidden=HIDDEN)
    sstan = SSTAN(CHANNELS, LABELS, LATENT, style_dim=LATENT, hidden=HIDDEN)
    style = StyleOnlyNorm(CHANNELS, LATENT, style_dim=LATENT)
    sean = SEAN(CHANNELS, LABELS, style_dim=LATENT, hidden=HIDDEN)
    return {
        "Style only": lambda x: style(x, z),
        "SPADE": lambda x: spade(x, segmap),
        "SSTAN": lambda x: sstan(x, segmap, z),
        "SEAN": lambda x: sean(x, segmap, styles),
    }


def compared(
    layers: dict[str, Call], baselines: dict[str, nn.Module], shape: tuple[int, ...]
) -> list[list[object]]:
    """A row for every layer and baseline."""
    x = torch.randn(*shape, requires_grad=True)
    rows: list[list[object]] = []
    for name, layer in layers.items():
        for other, baseline in baselines.items():
            ratio = paired_ratio(lambda f=layer: seconds(f, x), lambda f=baseline: seconds(f, x))
            rows.append([name, other, "x".join(map(str, shape)), *ratio])
    return rows


def main() -> None:
    """Compare every conditional norm with three norms of torch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = compared(volume_layers(), volume_baselines(), VOLUME)
    rows += compared(image_layers(), image_baselines(), IMAGE)
    report(
        "conditional_norms",
        "Conditional norms over torch's norms",
        ("layer", "baseline", "shape", "median ratio", "lowest", "highest"),
        rows,
        "Processor time of one thread, forward and backward, in turns.",
    )


if __name__ == "__main__":
    main()
