"""Retrieval across models: top-k hits, mean average precision, and what makes a new model compatible with an old one.

M(a / b) is the metric with model a's queries against model b's gallery. A new model is backward compatible if
M(new / old) > M(old / old) (the criterion of backward-compatible training, used by Ricci et al., arXiv 2509.16664).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from normviz.validation import check_choice, check_integer

__all__ = [
    "RETRIEVAL_METRICS",
    "average_compatibility",
    "backward_compatible",
    "compatibility_matrix",
    "retrieval_metrics",
    "update_gain",
]

RETRIEVAL_METRICS = ("map", "cmc")
EPS = 1e-12
ROWS_AT_ONCE = 1024
"""Queries ranked at a time: bounds the memory of large sets."""


def as_features(name: str, features: Any) -> Tensor:
    """Features [N, d] as a float64 tensor without graph, N >= 1.

    Raises:
        ValueError: another shape.
    """
    tensor = torch.as_tensor(features, dtype=torch.float64).detach()
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise ValueError(f"{name} must be a matrix [N, d] of features, got shape {tuple(tensor.shape)}.")
    return tensor


def as_labels(name: str, labels: Any, features: Tensor) -> Tensor:
    """Labels [N] on the features' device.

    Raises:
        ValueError: another shape than one label per row.
    """
    tensor = torch.as_tensor(labels).detach().to(features.device)
    if tensor.shape != features.shape[:1]:
        raise ValueError(f"{name} must have shape ({len(features)},), got {tuple(tensor.shape)}.")
    return tensor


def retrieval_metrics(
    query: Any,
    query_labels: Any,
    gallery: Any,
    gallery_labels: Any,
    topk: int = 1,
    exclude_self: bool = False,
) -> dict[str, float]:
    """Rank the gallery by cosine for each query; share of hits among the first, and mean average precision.

    ::

        cmc = share of queries with an item of their label among the first topk
        map = mean over queries of AP = mean over items of their label of (rank among those) / (rank)

    Ties keep the gallery's order. Queries without an item of their label are left out of both. Computed in float64.

    Args:
        query: [Q, d], tensor or array.
        query_labels: [Q].
        gallery: [G, d].
        gallery_labels: [G].
        topk: 1 by default (CMC-Top1).
        exclude_self: query i is gallery item i and is not retrieved by itself (False).

    Returns:
        {"cmc": ..., "map": ...}.

    Raises:
        ValueError: shapes that do not fit, topk < 1, exclude_self with sets of different size, or no query with an item
            of its label.

    References:
        Metrics of Ricci et al., arXiv 2509.16664.

    Example:
        >>> gallery = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> scores = retrieval_metrics([[1.0, 0.1]], [7], gallery, [3, 7, 7])
        >>> scores["cmc"], round(scores["map"], 4)
        (0.0, 0.5833)
    """
    check_integer("topk", topk, 1)
    query, gallery = as_features("query", query), as_features("gallery", gallery)
    query_labels = as_labels("query_labels", query_labels, query)
    gallery_labels = as_labels("gallery_labels", gallery_labels, gallery)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query and gallery must have the same width, got {query.shape[1]} and {gallery.shape[1]}."
        )
    if exclude_self and len(query) != len(gallery):
        raise ValueError(
            f"exclude_self needs query and gallery of the same items, got {len(query)} and {len(gallery)}."
        )
    query, gallery = normalize(query, dim=1, eps=EPS), normalize(gallery, dim=1, eps=EPS)
    ranks = torch.arange(1, len(gallery) + 1, dtype=torch.float64, device=gallery.device)
    hits, precisions = [], []
    for start in range(0, len(query), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosine = query[rows] @ gallery.mT  # (q, G)
        right = query_labels[rows, None] == gallery_labels
        if exclude_self:
            own = torch.arange(len(query), device=gallery.device)[rows, None]
            cosine.scatter_(1, own, -math.inf)
            right.scatter_(1, own, False)
        order = cosine.sort(stable=True, dim=1, descending=True).indices
        right = right.gather(1, order)
        count = right.sum(1)
        precision = (right.cumsum(1) / ranks * right).sum(1) / count
        hits.append(right[:, :topk].any(1)[count > 0])
        precisions.append(precision[count > 0])
    hit, precision = torch.cat(hits), torch.cat(precisions)
    if len(hit) == 0:
        raise ValueError(
            "query_labels and gallery_labels have nothing in common: no query has an item to find."
        )
    return {"cmc": float(hit.double().mean()), "map": float(precision.mean())}


def compatibility_matrix(
    features: Sequence[Any], labels: Any, *, metric: str = "map", exclude_self: bool = True
) -> Tensor:
    """M_ij = metric of queries of model i in the gallery of model j, for T models' features of the same items.

    Args:
        features: T matrices [N, d].
        labels: [N].
        metric: "map" (default) or "cmc".
        exclude_self: an item is not retrieved by itself (True).

    Returns:
        [T, T] float64.

    Raises:
        ValueError: no models, unknown metric, features that do not fit each other.

    References:
        Compatibility matrix of backward-compatible training, as in Ricci et al., arXiv 2509.16664.
    """
    check_choice("metric", metric, RETRIEVAL_METRICS)
    if len(features) == 0:
        raise ValueError("features must hold at least one model's matrix, got none.")
    return torch.tensor(
        [
            [
                retrieval_metrics(query, labels, gallery, labels, exclude_self=exclude_self)[metric]
                for gallery in features
            ]
            for query in features
        ],
        dtype=torch.float64,
    )


def average_compatibility(matrix: Any) -> float:
    """Share of pairs of a newer model i and an older one j with M_ij > M_jj; NaN for a single model.

    Args:
        matrix: [T, T], oldest model first.

    Raises:
        ValueError: not a square matrix.

    Example:
        >>> average_compatibility([[0.5, 0.0, 0.0], [0.6, 0.7, 0.0], [0.4, 0.8, 0.9]])
        0.6666666666666666
    """
    m = torch.as_tensor(matrix, dtype=torch.float64)
    if m.ndim != 2 or m.shape[0] != m.shape[1] or m.numel() == 0:
        raise ValueError(f"matrix must be square [T, T], got shape {tuple(m.shape)}.")
    if len(m) == 1:
        return math.nan
    i, j = torch.tril_indices(len(m), len(m), -1, device=m.device)
    return float((m[i, j] > m[j, j]).double().mean())


def backward_compatible(cross: float, self_old: float) -> bool:
    """Whether new queries find more in the old gallery than old ones: M(new / old) > M(old / old), strictly."""
    return bool(cross > self_old)


def update_gain(cross: float, self_old: float, self_new: float) -> float:
    """(M(new / old) - M(old / old)) / (M(new / new) - M(old / old)); NaN if the denominator is 0.

    The share of the new model's gain that is had without recomputing the gallery.
    """
    gain = float(self_new) - float(self_old)
    return (float(cross) - float(self_old)) / gain if gain else math.nan
