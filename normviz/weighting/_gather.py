"""Gathering per-sample losses from all ranks of a process group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_losses", "group_size"]


def group_size(group: dist.ProcessGroup | None) -> int:
    """Number of ranks: of ``group``, of the default group, or 1 without torch.distributed.

    Raises:
        ValueError: this process is not in ``group``.
    """
    if group is None and not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError("process_group must contain this rank, got a group without it.")
    return size


def gather_losses(
    losses: Tensor, valid: Tensor, problem: str | None, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, int]:
    """All ranks' detached losses and which of them count, padded to the longest local batch.

    The sizes travel first, because local batches may differ; a rank with a problem sends -1 instead, so that every
    rank raises and none is left waiting in the next collective.

    Args:
        losses: local losses [B].
        valid: bool [B], False for samples to ignore (their loss is not read).
        problem: what is wrong with this rank's arguments, None if nothing is.
        group: process group, None for the default one.

    Returns:
        (losses [W, B_max], valid [W, B_max], own rank).

    Raises:
        ValueError: this or another rank has a problem.
    """
    size = torch.tensor([-1 if problem else losses.shape[0]], device=losses.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    counts = [int(s) for s in sizes]
    if problem:
        raise ValueError(problem)
    if min(counts) < 0:
        broken = [rank for rank, count in enumerate(counts) if count < 0]
        raise ValueError(
            f"losses could not be gathered: rank {', '.join(map(str, broken))} had invalid arguments."
        )

    longest = max(counts)
    local = losses.new_zeros(2, longest)  # losses and validity, padding is invalid
    local[0, : losses.shape[0]] = torch.where(valid, losses.detach(), 0.0)
    local[1, : losses.shape[0]] = valid.to(losses.dtype)
    everyone = [torch.empty_like(local) for _ in counts]
    dist.all_gather(everyone, local, group=group)
    table = torch.stack(everyone)  # (W, 2, B_max)
    return table[:, 0], table[:, 1] > 0, dist.get_rank(group)
