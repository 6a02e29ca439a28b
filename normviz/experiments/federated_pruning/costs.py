"""What a round of each method costs one device: operations, memory and bytes, by the library's accounting."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import nn

from normviz.federated import (
    SparseModel,
    adjustment_flops,
    communication_bytes,
    device_memory,
    model_macs,
    training_flops,
)

__all__ = ["Adjustment", "Cost", "round_cost"]

VALUE = 4
"""Bytes of a gradient's value that is sent without its index."""


class Adjustment(NamedTuple):
    """What a method asks of a client in a round in which masks are adjusted.

    Attributes:
        names: weights whose masks may move.
        samples: that the gradient is taken of.
        pairs: of index and value, in the client's top-K buffer.
        uploads_pairs: they are sent to the server.
        dense: the gradients of the inactive weights are held, and sent, one by one.
        masks_up: the client sends its own masks.
    """

    names: Collection[str]
    samples: float
    pairs: int = 0
    uploads_pairs: bool = True
    dense: bool = False
    masks_up: bool = False


class Cost(NamedTuple):
    """Of one device in one round.

    Attributes:
        flops: floating-point operations of training and adjusting.
        memory: bytes for weights, gradients and the top-K buffer.
        sent: bytes up and down together.
    """

    flops: float
    memory: float
    sent: float


def round_cost(
    model: nn.Module,
    input_shape: tuple[int, ...],
    samples: float,
    epochs: int,
    *,
    adjustment: Adjustment | None = None,
    masks_changed: bool = False,
    pool_size: int = 0,
) -> Cost:
    """The cost of a round for a client with so many samples.

    Args:
        model: the global network, with its masks in this round.
        input_shape: of one picture.
        samples: of the client.
        epochs: local epochs.
        adjustment: what the method asks for in this round; None: it only trains.
        masks_changed: new masks are sent before this round.
        pool_size: candidates of a selection before this round.
    """
    macs = model_macs(model, input_shape)
    flops = training_flops(sum(macs.values()), samples, epochs)
    pairs = adjustment.pairs if adjustment else 0
    dense = adjustment is not None and adjustment.dense
    sent = communication_bytes(
        model,
        topk=pairs if adjustment and adjustment.uploads_pairs else 0,
        masks_changed=masks_changed,
        pool_size=pool_size,
    )
    total = float(sent["up"] + sent["down"])
    if adjustment is not None and isinstance(model, SparseModel):
        full = model_macs(model.model, input_shape)
        flops += adjustment_flops(
            sum(full[name] for name in adjustment.names),
            sum(macs[name] for name in adjustment.names),
            adjustment.samples,
        )
        masks = {name: model.masks[name] for name in adjustment.names}
        if adjustment.dense:
            total += VALUE * sum(int((~mask).sum()) for mask in masks.values())
        if adjustment.masks_up:
            total += sum(-(-mask.numel() // 8) for mask in masks.values())
    return Cost(flops, float(device_memory(model, topk=pairs, dense_gradients=dense)), total)
