"""Which task counts how much in a batch: the Dirichlet posterior of AdaB²N (arXiv 2310.08855), and its weights.

Every function works on (N,) task ids and (T,) task parameters, without looking at values except to refuse wrong ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.norms._rows import values_readable

__all__ = ["check_task_ids", "posterior_mean", "sample_weights", "tasks_in_batch"]


def check_task_ids(task_ids: object, samples: int, cur_task: Tensor, num_tasks: int) -> Tensor:
    """The ids as int64, if there is one per sample and each is a task seen so far.

    The values are looked at only where they can be: not while compiling, under vmap or on the device meta.

    Args:
        task_ids: (N,) of any integer dtype.
        samples: N.
        cur_task: index of the task in progress; num_tasks after the last one.
        num_tasks: T.

    Raises:
        TypeError: no tensor, or not of an integer dtype.
        ValueError: not (N,); an id below 0 or above the task in progress.
    """
    if not isinstance(task_ids, Tensor):
        raise TypeError(f"task_ids must be a tensor of integers, got {type(task_ids).__name__}.")
    if task_ids.dtype == torch.bool or task_ids.is_floating_point() or task_ids.is_complex():
        raise TypeError(f"task_ids must be a tensor of integers, got {task_ids.dtype}.")
    if tuple(task_ids.shape) != (samples,):
        raise ValueError(f"task_ids must have shape ({samples},), got {tuple(task_ids.shape)}.")
    ids = task_ids.to(cur_task.device, torch.long)
    if values_readable(ids) and values_readable(cur_task):
        newest = min(int(cur_task), num_tasks - 1)
        wrong = ids[(ids < 0) | (ids > newest)]
        if wrong.numel():
            raise ValueError(f"task_ids must be tasks seen so far, in [0, {newest}], got {int(wrong[0])}.")
    return ids


def tasks_in_batch(ids: Tensor, num_tasks: int, dtype: torch.dtype) -> Tensor:
    """(N, T) of zeros and ones: sample n belongs to task t."""
    return (ids[:, None] == torch.arange(num_tasks, device=ids.device)).to(dtype)


def posterior_mean(log_prior: Tensor, counts: Tensor, seen: Tensor, renormalize: bool) -> Tensor:
    """``pi_t = c_t / sum of c`` with ``c_t = exp(log_prior_t) + counts_t``: over the seen tasks, 0 for the others.

    Computed as a softmax of log c, so that no pseudo-count overflows; the gradient is exactly 0 for unseen tasks.

    Args:
        log_prior: psi, (T,).
        counts: samples of each task in the batch, (T,).
        seen: bool (T,), tasks up to the one in progress.
        renormalize: tasks without a sample in the batch take no part.

    Returns:
        (T,), summing to 1.
    """
    part = seen & (counts > 0) if renormalize else seen
    concentration = torch.logaddexp(log_prior, counts.log())  # log c
    return concentration.masked_fill(~part, -torch.inf).softmax(0)


def sample_weights(members: Tensor, posterior: Tensor, counts: Tensor) -> Tensor:
    """``w_n = pi_t / N_t`` of the task t of sample n, (N,)."""
    return (members * (posterior / counts.clamp(min=1))).sum(1)
