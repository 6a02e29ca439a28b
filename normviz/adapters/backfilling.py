"""Partial backfilling: which gallery items to extract anew first, and what each share of them brings (2509.16664)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from normviz.adapters.retrieval import EPS, RETRIEVAL_METRICS, as_features, as_labels, retrieval_metrics
from normviz.validation import check_choice, check_integer

__all__ = ["BACKFILL_STRATEGIES", "backfill_curve", "backfill_order"]

BACKFILL_STRATEGIES = ("class_mean", "random")


def backfill_order(features: Any, labels: Any, strategy: str = "class_mean", *, seed: int = 0) -> Tensor:
    """Items in the order in which they should be extracted with the new model, worst represented first.

    "class_mean": by the distance 1 - cosine to the mean of the class's normalised features, largest first, ties by
    index. "random": any order, the baseline. The paper's distance was not at hand; the cosine is this library's choice.

    Args:
        features: [N, d], the old features after the forward map; tensor or array.
        labels: [N].
        strategy: "class_mean" (default) or "random".
        seed: of "random".

    Returns:
        [N] long, a permutation.

    Raises:
        ValueError: unknown strategy, shapes that do not fit.

    References:
        Ricci et al., arXiv 2509.16664 (partial backfilling).

    Example:
        >>> backfill_order([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [0, 0, 0]).tolist()
        [2, 0, 1]
    """
    check_choice("strategy", strategy, BACKFILL_STRATEGIES)
    check_integer("seed", seed)
    rows = as_features("features", features)
    labels = as_labels("labels", labels, rows)
    if strategy == "random":
        return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    rows = normalize(rows, dim=1, eps=EPS)
    _, index = labels.unique(return_inverse=True)
    # The direction of the sum is that of the mean.
    sums = rows.new_zeros(int(index.max()) + 1, rows.shape[1]).index_add(0, index, rows)
    distance = 1 - (rows * normalize(sums, dim=1, eps=EPS)[index]).sum(1)
    return distance.sort(stable=True, descending=True).indices


def backfill_curve(
    query: Any,
    query_labels: Any,
    old_gallery: Any,
    new_gallery: Any,
    gallery_labels: Any,
    order: Any,
    fractions: Any = None,
    *,
    metric: str = "map",
    exclude_self: bool = False,
) -> tuple[Tensor, Tensor, float]:
    """Retrieval while the gallery is replaced: at fraction x the first round(x N) items of ``order`` are new.

    Args:
        query: [Q, d], usually B(h_new); tensor or array.
        query_labels: [Q].
        old_gallery: [N, d], h_old or F(h_old).
        new_gallery: [N, d], B(h_new) of the same items.
        gallery_labels: [N].
        order: permutation of the N items, as from :func:`backfill_order`.
        fractions: increasing, in [0, 1]; None (default): 0, 0.1, ..., 1.
        metric: "map" (default) or "cmc".
        exclude_self: query i is gallery item i and is not retrieved by itself (False).

    Returns:
        (fractions, metric, area): two 1-D float64 tensors, and the area under the curve by trapezoids.

    Raises:
        ValueError: unknown metric, fractions outside [0, 1] or not increasing, order not a permutation, shapes that do
            not fit.

    References:
        Ricci et al., arXiv 2509.16664 (partial backfilling).
    """
    check_choice("metric", metric, RETRIEVAL_METRICS)
    old, new = as_features("old_gallery", old_gallery), as_features("new_gallery", new_gallery)
    if old.shape != new.shape:
        raise ValueError(
            f"old_gallery and new_gallery must have the same shape, got {tuple(old.shape)} and {tuple(new.shape)}."
        )
    order = torch.as_tensor(order, device=old.device).detach()
    items = torch.arange(len(old), device=old.device)
    if order.shape != items.shape or not torch.equal(order.sort().values.to(items.dtype), items):
        raise ValueError(f"order must be a permutation of the {len(old)} gallery items.")
    fractions = torch.linspace(0, 1, 11, dtype=torch.float64) if fractions is None else fractions
    x = torch.as_tensor(fractions, dtype=torch.float64).detach().cpu()
    inside = x.ndim == 1 and len(x) > 0 and bool(((x >= 0) & (x <= 1)).all())
    if not inside or not bool((x.diff() > 0).all()):
        raise ValueError(f"fractions must increase within [0, 1], got {x.tolist()}.")
    gallery = old.clone()
    values = []
    for fraction in x.tolist():
        replaced = order[: round(fraction * len(old))]
        gallery[replaced] = new[replaced]
        scores = retrieval_metrics(query, query_labels, gallery, gallery_labels, exclude_self=exclude_self)
        values.append(scores[metric])
    y = torch.tensor(values, dtype=torch.float64)
    return x, y, float(torch.trapezoid(y, x))
