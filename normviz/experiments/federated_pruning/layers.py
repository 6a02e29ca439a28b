"""The four prunable weights of the network, as training and charts both need them: names, shapes, sizes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DENSE", "LAYERS", "PARAMETERS", "PRUNABLE", "Layer"]


class Layer(NamedTuple):
    """One prunable weight.

    Attributes:
        label: on the charts.
        weight: name of the parameter.
        outputs, inputs: channels.
        side: of a kernel; 1 for the head.
        macs: multiply-accumulates of a weight for one 8 x 8 picture.
    """

    label: str
    weight: str
    outputs: int
    inputs: int
    side: int
    macs: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.outputs * self.inputs * self.side**2


LAYERS = (
    Layer("conv 1", "blocks.0.conv.weight", 16, 1, 3, 64),
    Layer("conv 2", "blocks.1.conv.weight", 32, 16, 3, 16),
    Layer("conv 3", "blocks.2.conv.weight", 32, 32, 3, 4),
    Layer("head", "head.weight", 10, 32, 1, 1),
)
"""From input to output; each is a block of its own for progressive pruning."""

PRUNABLE = sum(layer.size for layer in LAYERS)
DENSE = 2 * (16 + 32 + 32) + 10
"""Scales and offsets of the batch norms, and the head's biases: never pruned."""
PARAMETERS = PRUNABLE + DENSE
