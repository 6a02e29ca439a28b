"""Progressive pruning: the mask moves a little in some rounds, one block at a time, by the top-K gradients of clients.

Huang et al., "Distributed Pruning Towards Tiny Neural Networks in Federated Learning" (FedTiny), ICDCS 2023, arXiv
2212.01977, module 2 (progressive pruning). In an adjustment round, for every prunable layer l of the scheduled block:

1. a_l = int(f(r) n_l) weights are exchanged, n_l the active ones, f the cosine of
   :func:`normviz.federated.cosine_adjust_fraction`.
2. A client keeps the a_l largest |gradients| of *inactive* weights in a buffer of that size and uploads pairs of index
   and value: memory O(a_l), no dense gradient (:class:`TopKBuffer`, :func:`topk_gradients`).
3. The server averages what was uploaded, 0 where a client did not upload an index (:func:`aggregate_topk`).
4. The a_l inactive positions with the largest mean |gradient| grow, from exactly 0; the a_l smallest of the weights
   that were active before are pruned (:func:`prune_and_grow`). The number of active weights stays.

Indices are flat positions in the weight. (The authors' repository once took positions in the list of inactive weights
for them.) Of equal values the lower index comes first, everywhere.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from normviz.federated.fedavg import client_shares
from normviz.federated.pruning import ranks, top_positions
from normviz.validation import check_choice, check_integer

__all__ = [
    "GRANULARITIES",
    "GROW_FROM",
    "ORDERS",
    "BlockSchedule",
    "TopKBuffer",
    "aggregate_topk",
    "prune_and_grow",
    "topk_gradients",
]

GROW_FROM = ("previously_inactive", "all_inactive")
ORDERS = ("backward", "forward")
GRANULARITIES = ("block", "layer", "entire")

Upload = tuple[Tensor, Tensor]
"""Flat indices and values, of equal length."""


class TopKBuffer:
    """The k largest |gradients| of inactive weights of a tensor that is seen in chunks, in O(K) memory.

    Huang et al. 2023 (FedTiny), arXiv 2212.01977, module 2.

    Args:
        k: pairs that are kept, >= 0.

    Raises:
        ValueError: k is no such integer.

    Example:
        >>> buffer = TopKBuffer(2)
        >>> mask = torch.tensor([True, False])
        >>> buffer.push(0, torch.tensor([9.0, -3.0]), mask)
        >>> buffer.push(2, torch.tensor([8.0, 5.0]), mask)
        >>> [entry.tolist() for entry in buffer.result()]
        [[3, 1], [5.0, -3.0]]
    """

    def __init__(self, k: int) -> None:
        self.k = check_integer("k", k, 0)
        self._indices: Tensor | None = None
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._indices is None else len(self._indices)

    def push(self, start: int, grad: Tensor, mask: Tensor) -> None:
        """Take a chunk of the flattened tensor.

        Args:
            start: position of the chunk's first entry in the tensor.
            grad: gradients of the chunk.
            mask: of the chunk, True (or not 0) = active; those positions are no candidates.

        Raises:
            ValueError: start is negative, or grad and mask differ in size.
        """
        first = check_integer("start", start, 0)
        if grad.numel() != mask.numel():
            raise ValueError(f"mask must have as many entries as grad ({grad.numel()}), got {mask.numel()}.")
        inactive = torch.nonzero(~mask.flatten().bool()).flatten()
        values = grad.detach().flatten()[inactive]
        best = top_positions(values.abs(), self.k)
        indices, values = inactive[best] + first, values[best]
        if self._indices is not None and self._values is not None:
            indices = torch.cat([self._indices, indices])
            values = torch.cat([self._values, values])
        by_index = indices.argsort()
        indices, values = indices[by_index], values[by_index]
        best = top_positions(values.abs(), self.k)
        self._indices, self._values = indices[best], values[best]

    def result(self) -> Upload:
        """(indices, values), by falling |value|, of equal ones the lower index first."""
        if self._indices is None or self._values is None:
            return torch.empty(0, dtype=torch.long), torch.empty(0)
        return self._indices.clone(), self._values.clone()


def topk_gradients(grad: Tensor, mask: Tensor, k: int) -> Upload:
    """What a client uploads for one layer: the k largest |gradients| of inactive weights, with flat indices.

    Args:
        grad: gradient at all positions, any shape.
        mask: True (or not 0) = active, of the same size.
        k: pairs, >= 0; fewer where fewer weights are inactive.

    Returns:
        (indices, values), by falling |value|, of equal ones the lower index first.

    Raises:
        ValueError: k is no such integer, or sizes differ.
    """
    buffer = TopKBuffer(k)
    buffer.push(0, grad, mask)
    return buffer.result()


def aggregate_topk(uploads: Sequence[Upload], sizes: Sequence[float], shape: Sequence[int]) -> Tensor:
    """The server's mean gradient: sum of p_k times what client k uploaded, 0 where it uploaded nothing.

    Args:
        uploads: (indices, values) of every client.
        sizes: samples of every client; p_k = sizes_k / sum(sizes).
        shape: of the weight.

    Raises:
        ValueError: no uploads, sizes that do not fit, an index outside of the shape, indices and values of different
            lengths.

    Example:
        >>> one, other = torch.tensor([1]), torch.tensor([2])
        >>> aggregate_topk([(one, torch.tensor([4.0])), (other, torch.tensor([8.0]))], [30, 10], (3,))
        tensor([0., 3., 2.])
    """
    if not uploads or len(sizes) != len(uploads):
        raise ValueError(f"sizes must have one entry per upload, at least one: {len(sizes)}, {len(uploads)}.")
    numel = math.prod(shape)
    mean = uploads[0][1].new_zeros(numel)
    for (indices, values), share in zip(uploads, client_shares(sizes), strict=True):
        if len(indices) != len(values):
            raise ValueError(f"uploads must have one value per index, got {len(values)} for {len(indices)}.")
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < numel):
            raise ValueError(f"uploads must have indices in [0, {numel}), got {indices.tolist()}.")
        mean.index_add_(0, indices, share * values)
    return mean.view(*shape)


@torch.no_grad()
def prune_and_grow(
    weight: Tensor, mask: Tensor, grad: Tensor, k: int, grow_from: str = "previously_inactive"
) -> tuple[Tensor, Tensor]:
    """The k smallest active weights leave, the k inactive positions with the largest |gradient| enter at 0.

    Both are chosen by the mask before the step; k is cut to what is active and what is inactive.

    Args:
        weight: after averaging.
        mask: True (or not 0) = active, weight's shape.
        grad: the averaged gradient, weight's shape.
        k: how many are exchanged, >= 0.
        grow_from: "previously_inactive" (default): only positions that were inactive before. "all_inactive": also those
            that have just been pruned, as in the authors' library; a weight that leaves and enters at once keeps its
            value.

    Returns:
        (weight, mask), new tensors; the mask keeps its dtype, inactive weights are exactly 0.

    Raises:
        ValueError: unknown grow_from, k is no such integer, shapes differ.

    Example:
        >>> w, m = torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.tensor([True, True, False, False])
        >>> prune_and_grow(w, m, torch.tensor([0.0, 0.0, 0.1, -2.0]), 1)
        (tensor([3., 0., 0., 0.]), tensor([ True, False, False,  True]))
    """
    check_choice("grow_from", grow_from, GROW_FROM)
    wanted = check_integer("k", k, 0)
    if mask.shape != weight.shape or grad.shape != weight.shape:
        raise ValueError(
            f"mask and grad must have the shape of weight {tuple(weight.shape)}, got {tuple(mask.shape)} and "
            f"{tuple(grad.shape)}."
        )
    active = mask.flatten().bool()
    count = torch.minimum(active.sum(), (~active).sum()).clamp(max=wanted)
    flat = weight.detach().flatten()
    kept = active & (ranks(torch.where(active, -flat.abs(), -torch.inf)) >= count)
    candidates = ~active if grow_from == "previously_inactive" else ~kept
    size = torch.where(candidates, grad.detach().flatten().abs(), -torch.inf)
    after = kept | (candidates & (ranks(size) < count))
    values = torch.where(active & after, flat, torch.zeros_like(flat))
    return values.view(weight.shape), after.to(mask.dtype).view(mask.shape)


class BlockSchedule:
    """Which block is adjusted in which round: one after another, every ``interval`` rounds.

    Huang et al. 2023 (FedTiny), arXiv 2212.01977, module 2. Round r adjusts if r is a multiple of the
    interval and at most ``stop``. Blocks take turns and begin anew when all had theirs.

    Args:
        blocks: lists of weight names, from input to output.
        interval: Delta_R >= 1, 10 as in the paper's experiments.
        stop: R_stop, 100 as there; below the interval nothing is ever adjusted, with a UserWarning.
        order: "backward" (default): from output to input; "forward".
        granularity: "block" (default); "layer": every weight is its own block; "entire": one block of all.

    Raises:
        ValueError: an unknown word, interval below 1, no blocks, an empty one, a name twice.

    Example:
        >>> BlockSchedule([["a"], ["b"], ["c"]], interval=10, stop=40).rounds()
        [(10, 2), (20, 1), (30, 0), (40, 2)]
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[str]],
        interval: int = 10,
        stop: int = 100,
        order: str = "backward",
        granularity: str = "block",
    ) -> None:
        self.interval = check_integer("interval", interval, 1)
        self.stop = check_integer("stop", stop, 0)
        self.order = check_choice("order", order, ORDERS)
        self.granularity = check_choice("granularity", granularity, GRANULARITIES)
        given = [list(block) for block in blocks]
        names = [name for block in given for name in block]
        if not given or not all(given) or len(set(names)) != len(names):
            raise ValueError(f"blocks must be lists of names, none empty, no name twice, got {given}.")
        shapes = {"block": given, "layer": [[name] for name in names], "entire": [names]}
        self.blocks = shapes[self.granularity]
        if self.stop < self.interval:
            warnings.warn(
                f"stop ({self.stop}) is before the first adjustment (interval {self.interval}): the masks stay.",
                UserWarning,
                stacklevel=2,
            )

    def block(self, round: int) -> int | None:
        """Index of the block that is adjusted in a round (1, 2, ...), None if none is."""
        r = check_integer("round", round, 0)
        if r == 0 or r % self.interval or r > self.stop:
            return None
        turn = (r // self.interval - 1) % len(self.blocks)
        return len(self.blocks) - 1 - turn if self.order == "backward" else turn

    def names(self, round: int) -> list[str]:
        """Names of the weights that are adjusted in a round, in the order of the layers."""
        index = self.block(round)
        return [] if index is None else list(self.blocks[index])

    def rounds(self) -> list[tuple[int, int]]:
        """All adjustment rounds with their blocks."""
        every = range(self.interval, self.stop + 1, self.interval)
        return [(r, index) for r in every if (index := self.block(r)) is not None]
