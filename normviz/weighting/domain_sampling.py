"""Domain weights as sampling probabilities, to be combined with loss-based weights inside the batch.

DoGE (arXiv 2310.15393) and DoReMi (arXiv 2305.10429) choose how often each domain is drawn; dynamic loss-based
reweighting (arXiv 2502.06733) then weights the samples of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from normviz.validation import check_integer

__all__ = ["domain_sampler"]


def domain_sampler(
    domains: Tensor,
    domain_weights: Tensor,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
) -> WeightedRandomSampler:
    """Sampler with replacement that draws domain d with probability proportional to domain_weights[d].

    A sample of domain d has weight domain_weights[d] / count_d, count_d the number of samples of domain d.

    Args:
        domains: domain of each sample, integers [N] in 0..D-1.
        domain_weights: [D], >= 0, need not sum to 1. A domain without samples is never drawn.
        num_samples: draws per epoch (None: N).
        generator: of the draws (None: torch's default).

    Raises:
        ValueError: shapes or types other than above, a domain outside 0..D-1, negative or non-finite weights, no domain
            with samples and a positive weight, num_samples < 1.

    Example:
        >>> sampler = domain_sampler(torch.tensor([0, 0, 0, 1]), torch.tensor([0.5, 0.5]), num_samples=8)
        >>> len(list(sampler))
        8
    """
    if domains.ndim != 1 or domains.shape[0] == 0 or domains.is_floating_point() or domains.is_complex():
        raise ValueError(
            f"domains must hold integers [N] with N >= 1, got {domains.dtype} of shape {tuple(domains.shape)}."
        )
    if domain_weights.ndim != 1 or not bool((domain_weights.isfinite() & (domain_weights >= 0)).all()):
        raise ValueError(f"domain_weights must have shape [D] with finite values >= 0, got {domain_weights}.")
    D = domain_weights.shape[0]
    if int(domains.min()) < 0 or int(domains.max()) >= D:
        raise ValueError(
            f"domains must lie in 0..{D - 1} (domain_weights has {D} entries), got {int(domains.min())} to "
            f"{int(domains.max())}."
        )
    if num_samples is not None:
        check_integer("num_samples", num_samples, 1)
    index = domains.long()
    count = torch.bincount(index, minlength=D)
    weights = (domain_weights.detach().double() / count.clamp(min=1))[index]
    if float(weights.sum()) <= 0.0:
        raise ValueError("domain_weights must be > 0 for at least one domain that has samples.")
    return WeightedRandomSampler(
        weights.tolist(), domains.shape[0] if num_samples is None else num_samples, generator=generator
    )
