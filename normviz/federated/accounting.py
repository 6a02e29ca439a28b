"""What a round costs a device: multiply-accumulates, memory and communication of dense and sparse networks.

The convention is ours and is stated wherever its numbers are shown (the paper, arXiv 2212.01977, gives ratios only):

- MACs per sample: active weights times output positions for a convolution, active weights for a linear layer. FLOPs are
  2 MACs, training costs 3 forwards (1 forward, 2 backward). Norms and activations are not counted.
- Memory of a tensor: the least of dense 4 n, bitmap n/8 + 4 nnz, and coordinates 8 nnz bytes. A device holds weights,
  gradients and perhaps momentum in that format, 4 n each for parameters that are not pruned, and 8 bytes per pair of
  the top-K buffer.
- Communication of one client and round: 4 bytes per active weight, other parameter, running mean and running variance,
  each way; 8 bytes up per pair; the masks as bitmaps down when they changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from normviz.federated._networks import batch_norms, kept_modes
from normviz.federated.pruning import plain_network
from normviz.validation import check_integer, check_real

__all__ = [
    "adjustment_flops",
    "communication_bytes",
    "device_memory",
    "model_macs",
    "sparse_bytes",
    "training_flops",
]

BYTES = 4
"""Of a value and of an index."""


def sparse_bytes(numel: int, nnz: int, value_bytes: int = BYTES, index_bytes: int = BYTES) -> int:
    """Bytes of a tensor in its smallest format: dense, bitmap with values, or values with indices.

    Args:
        numel: entries n.
        nnz: entries that are not 0, at most n.
        value_bytes: per value, 4 by default.
        index_bytes: per index of the coordinate format, 4 by default.

    Returns:
        min(v n, ceil(n / 8) + v nnz, (v + i) nnz).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> [sparse_bytes(1000, nnz) for nnz in (10, 100, 1000)]
        [80, 525, 4000]
    """
    n = check_integer("numel", numel, 0)
    k = check_integer("nnz", nnz, 0, n)
    value = check_integer("value_bytes", value_bytes, 1)
    index = check_integer("index_bytes", index_bytes, 1)
    return min(value * n, _bitmap(n) + value * k, (value + index) * k)


def _bitmap(numel: int) -> int:
    return -(-numel // 8)


@torch.no_grad()
def model_macs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer for one sample.

    Args:
        model: a network, or a :class:`normviz.federated.SparseModel`, of which only active weights count.
        input_shape: shape of one input, without the batch axis.

    Returns:
        Name of the weight -> MACs, in the order of the layers; layers that the forward does not use have 0.
    """
    network, weights, masks = plain_network(model)
    active = {name: int(masks[name].sum()) if name in masks else w.numel() for name, w in weights.items()}
    names = {id(network.get_parameter(name)): name for name in weights}
    macs = dict.fromkeys(weights, 0)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[id(module._parameters["weight"])]
        macs[name] += active[name] * _positions(module, inputs[0], output)

    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, _ConvNd))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    some = next(iter(weights.values()))
    try:
        with kept_modes(network):
            network.eval()
            network(torch.zeros(1, *input_shape, dtype=some.dtype, device=some.device))
    finally:
        for handle in handles:
            handle.remove()
    return macs


def _positions(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """How often a layer uses each weight for a sample."""
    if isinstance(module, _ConvTransposeNd):
        return x[0, 0].numel()
    if isinstance(module, _ConvNd):
        return y[0, 0].numel()
    return y[..., 0].numel()


def training_flops(forward_macs: float, samples: float, epochs: float = 1) -> float:
    """FLOPs of training: 3 * 2 * MACs per sample and epoch (one forward, two for the backward).

    Args:
        forward_macs: of one sample.
        samples: number of samples.
        epochs: passes over them.

    Raises:
        ValueError: an argument is negative.
    """
    macs = check_real("forward_macs", forward_macs, 0, high_open=True)
    count = check_real("samples", samples, 0, high_open=True)
    return 6 * macs * count * check_real("epochs", epochs, 0, high_open=True)


def adjustment_flops(dense_macs: float, sparse_macs: float, samples: float) -> float:
    """Extra FLOPs of an adjustment: gradients of the inactive weights of the scheduled block, 2 * (dense - sparse).

    Args:
        dense_macs: of the block with all weights, for one sample.
        sparse_macs: of the block with active weights.
        samples: used for the gradient.

    Raises:
        ValueError: an argument is negative, or sparse_macs exceeds dense_macs.
    """
    dense = check_real("dense_macs", dense_macs, 0, high_open=True)
    sparse = check_real("sparse_macs", sparse_macs, 0, dense)
    return 2 * (dense - sparse) * check_real("samples", samples, 0, high_open=True)


def device_memory(
    model: nn.Module,
    *,
    topk: int = 0,
    momentum: bool = False,
    dense_gradients: bool = False,
    activations: int = 0,
) -> int:
    """Bytes that a device holds for training: weights, gradients, momentum, top-K buffer.

    Args:
        model: a network, or a :class:`normviz.federated.SparseModel`, whose pruned weights take the smallest format.
        topk: pairs in the buffer, 8 bytes each.
        momentum: the optimizer keeps a buffer per weight.
        dense_gradients: gradients of pruned weights are dense, as PruneFL needs them.
        activations: bytes for activations, if they shall count.

    Raises:
        ValueError: topk or activations is negative.
    """
    pairs = check_integer("topk", topk, 0)
    extra = check_integer("activations", activations, 0)
    sparse, dense, rest = _sizes(model)
    copies = 2 + bool(momentum)
    of_pruned = copies * sparse - (sparse - dense if dense_gradients else 0)
    return of_pruned + copies * rest + 2 * BYTES * pairs + extra


def _sizes(model: nn.Module) -> tuple[int, int, int]:
    """Bytes of the pruned weights in their smallest format and dense, and of all other parameters."""
    network, _, masks = plain_network(model)
    sparse = sum(sparse_bytes(mask.numel(), int(mask.sum())) for mask in masks.values())
    dense = sum(BYTES * mask.numel() for mask in masks.values())
    rest = sum(BYTES * p.numel() for name, p in network.named_parameters() if name not in masks)
    return sparse, dense, rest


def communication_bytes(
    model: nn.Module, *, topk: int = 0, masks_changed: bool = False, pool_size: int = 0
) -> dict[str, int]:
    """Bytes that one client exchanges with the server in one round.

    Args:
        model: a network, or a :class:`normviz.federated.SparseModel`.
        topk: pairs of index and value that the client uploads.
        masks_changed: the masks are sent as bitmaps.
        pool_size: candidates of a selection in this round: statistics of every batch norm up and down, losses up.

    Returns:
        ``up`` and ``down``.

    Raises:
        ValueError: topk or pool_size is negative.
    """
    pairs = check_integer("topk", topk, 0)
    candidates = check_integer("pool_size", pool_size, 0)
    network, _, masks = plain_network(model)
    values = sum(int(mask.sum()) for mask in masks.values())
    values += sum(p.numel() for name, p in network.named_parameters() if name not in masks)
    channels = sum(norm.num_features for norm in batch_norms(network).values())
    state = BYTES * (values + 2 * channels)
    statistics = candidates * 2 * channels * BYTES
    bitmaps = sum(_bitmap(mask.numel()) for mask in masks.values()) if masks_changed else 0
    return {
        "up": state + 2 * BYTES * pairs + statistics + BYTES * candidates,
        "down": state + bitmaps + statistics,
    }
