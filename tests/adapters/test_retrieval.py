"""Retrieval metrics by hand and against a loop, compatibility between models, partial backfilling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from normviz.adapters import (
    average_compatibility,
    backfill_curve,
    backfill_order,
    backward_compatible,
    compatibility_matrix,
    retrieval_metrics,
    update_gain,
)


def clusters(n: int = 40, d: int = 6, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    return rng.normal(size=(4, d))[labels] + noise * rng.normal(size=(n, d)), labels


def loop(query, query_labels, gallery, gallery_labels, topk: int, exclude_self: bool) -> tuple[float, float]:
    """Query by query, rank by rank."""
    hits, precisions = [], []
    for i, q in enumerate(query):
        items = [j for j in range(len(gallery)) if not (exclude_self and i == j)]
        cosine = {j: q @ gallery[j] / np.linalg.norm(q) / np.linalg.norm(gallery[j]) for j in items}
        ranking = sorted(items, key=lambda j: (-cosine[j], j))
        right = [gallery_labels[j] == query_labels[i] for j in ranking]
        if not any(right):
            continue
        hits.append(any(right[:topk]))
        found, terms = 0, []
        for rank, is_right in enumerate(right, 1):
            found += is_right
            if is_right:
                terms.append(found / rank)
        precisions.append(np.mean(terms))
    return float(np.mean(hits)), float(np.mean(precisions))


def test_check_9_four_items_by_hand() -> None:
    # Angles of the gallery: 0, 10, 50, 90 degrees; query a at 5 (label 0), query b at 80 (label 1).
    def at(*degrees: float) -> torch.Tensor:
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack((angles.cos(), angles.sin()), 1)

    gallery, labels = at(0, 10, 50, 90), torch.tensor([1, 0, 0, 1])
    scores = retrieval_metrics(at(6, 80), torch.tensor([0, 1]), gallery, labels)
    # a: 10 (right), 0 (wrong), 50 (right), 90: AP = (1 + 2/3) / 2. b: 90 (right), 50, 10, 0 (right): (1 + 2/4) / 2.
    assert scores == {"cmc": 1.0, "map": pytest.approx((5 / 6 + 3 / 4) / 2)}
    # Without itself: 0 -> 10 50 90*; 10 -> 0 50* 90; 50 -> 10* or 90 (both 40 away, by index) 0; 90 -> 50 10 0*.
    scores = retrieval_metrics(gallery, labels, gallery, labels, exclude_self=True)
    assert scores["cmc"] == pytest.approx(1 / 4)
    assert scores["map"] == pytest.approx((1 / 3 + 1 / 2 + 1 + 1 / 3) / 4)
    assert retrieval_metrics(gallery, labels, gallery, labels, topk=2, exclude_self=True)["cmc"] == 0.5


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("topk", [1, 3, 100])
def test_metrics_equal_a_loop(topk: int, exclude_self: bool) -> None:
    for seed in range(3):
        gallery, gallery_labels = clusters(40, noise=2.0, seed=seed)
        query, query_labels = clusters(40 if exclude_self else 17, noise=2.0, seed=seed + 10)
        query_labels = query_labels + (query_labels == 3)  # label 4 is in no gallery
        scores = retrieval_metrics(query, query_labels, gallery, gallery_labels, topk, exclude_self)
        expected = loop(query, query_labels, gallery, gallery_labels, topk, exclude_self)
        assert (scores["cmc"], scores["map"]) == pytest.approx(expected, rel=1e-12)


def test_many_queries_are_ranked_in_parts() -> None:
    gallery, labels = clusters(60, noise=2.0)
    many, many_labels = clusters(2500, noise=2.0, seed=1)
    whole = retrieval_metrics(many, many_labels, gallery, labels)
    halves = [retrieval_metrics(many[i::2], many_labels[i::2], gallery, labels)["map"] for i in (0, 1)]
    assert whole["map"] == pytest.approx(np.mean(halves), rel=1e-12)


def test_scale_does_not_matter_and_inputs_stay() -> None:
    gallery, labels = clusters(noise=1.5)
    kept = gallery.copy()
    first = retrieval_metrics(gallery, labels, gallery, labels, exclude_self=True)
    scaled = gallery * np.linspace(0.1, 9, 40)[:, None]
    assert retrieval_metrics(scaled, labels, gallery, labels, exclude_self=True)["map"] == pytest.approx(
        first["map"]
    )
    np.testing.assert_array_equal(gallery, kept)
    tensors = torch.tensor(gallery, requires_grad=True)
    assert retrieval_metrics(tensors, labels, tensors, labels, exclude_self=True) == first
    zero = gallery.copy()
    zero[0] = 0
    assert 0 < retrieval_metrics(zero, labels, zero, labels, exclude_self=True)["map"] < 1


def test_a_query_finds_itself_unless_excluded() -> None:
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(60, 8)), np.arange(60) % 2
    assert retrieval_metrics(noise, labels, noise, labels)["cmc"] == 1.0
    assert retrieval_metrics(noise, labels, noise, labels, exclude_self=True)["cmc"] < 0.8


def test_compatibility_of_a_sequence_of_models() -> None:
    models = [clusters(noise=noise, seed=3)[0] for noise in (3.0, 1.0, 0.3)]
    labels = clusters()[1]
    m = compatibility_matrix(models, labels)
    assert (m.shape, m.dtype) == ((3, 3), torch.float64)
    for i in range(3):
        for j in range(3):
            assert float(m[i, j]) == pytest.approx(loop(models[i], labels, models[j], labels, 1, True)[1])
    with_self = compatibility_matrix(models, labels, metric="cmc", exclude_self=False)
    assert with_self.diag().tolist() == [1.0] * 3
    share = np.mean([float(m[i, j]) > float(m[j, j]) for i in range(3) for j in range(i)])
    assert average_compatibility(m) == pytest.approx(share)


def test_compatibility_figures() -> None:
    assert average_compatibility([[0.5, 0.9], [0.5, 0.9]]) == 0.0
    assert average_compatibility(np.array([[0.5, 0.9], [0.51, 0.9]])) == 1.0
    assert math.isnan(average_compatibility([[0.5]]))
    assert backward_compatible(0.6, 0.5) is True
    assert backward_compatible(0.5, 0.5) is False
    assert update_gain(0.6, 0.5, 0.9) == pytest.approx(0.25)
    assert update_gain(0.4, 0.5, 0.9) == pytest.approx(-0.25)
    assert math.isnan(update_gain(0.6, 0.5, 0.5))


def test_backfilling_begins_far_from_the_class_mean() -> None:
    rows, labels = clusters(noise=1.0)
    order = backfill_order(rows * np.linspace(1, 20, 40)[:, None], labels)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(0) for c in range(4)])[labels]
    distance = 1 - (unit * means).sum(1) / np.linalg.norm(means, axis=1)
    assert order.tolist() == np.argsort(-distance, kind="stable").tolist()
    assert order.dtype == torch.long
    assert backfill_order(torch.ones(5, 2), [0, 0, 1, 1, 1]).tolist() == list(range(5)), "ties by index"
    assert backfill_order(torch.eye(3), [9, -2, 5]).tolist() == [0, 1, 2], "every item is its class's mean"


def test_random_order_is_the_baseline() -> None:
    rows, labels = clusters()
    first = backfill_order(rows, labels, "random", seed=1)
    state = torch.get_rng_state()
    assert torch.equal(backfill_order(rows, labels, "random", seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(backfill_order(rows, labels, "random", seed=2), first)
    assert sorted(first.tolist()) == list(range(40))


@pytest.mark.parametrize("metric", ["map", "cmc"])
def test_check_8_ends_of_the_backfill_curve(metric: str) -> None:
    old, labels = clusters(noise=3.0, seed=1)
    new, _ = clusters(noise=0.5, seed=2)
    order = backfill_order(old, labels)
    x, y, area = backfill_curve(new, labels, old, new, labels, order, metric=metric, exclude_self=True)
    assert x.tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())
    cross = retrieval_metrics(new, labels, old, labels, exclude_self=True)[metric]
    itself = retrieval_metrics(new, labels, new, labels, exclude_self=True)[metric]
    assert (float(y[0]), float(y[-1])) == (cross, itself)
    half = old.copy()
    half[order[:20].numpy()] = new[order[:20].numpy()]
    assert float(y[5]) == retrieval_metrics(new, labels, half, labels, exclude_self=True)[metric]
    values = y.tolist()
    assert area == pytest.approx(sum((a + b) / 20 for a, b in itertools.pairwise(values)))
    assert (x.dtype, y.dtype) == (torch.float64, torch.float64)


def test_fractions_of_ones_own() -> None:
    old, labels = clusters(noise=3.0, seed=1)
    new, _ = clusters(noise=0.5, seed=2)
    order = list(range(40))
    x, y, area = backfill_curve(new, labels, old, new, labels, order, [0.0, 0.26, 1.0])
    assert x.tolist() == [0.0, 0.26, 1.0]
    mixed = np.concatenate((new[:10], old[10:]))
    assert float(y[1]) == retrieval_metrics(new, labels, mixed, labels)["map"]
    assert area == pytest.approx(0.26 * float(y[0] + y[1]) / 2 + 0.74 * float(y[1] + y[2]) / 2)


def test_refusals() -> None:
    rows, labels = clusters()
    order = torch.arange(40)
    cases = [
        (lambda: retrieval_metrics(rows, labels, rows, labels, topk=0), "topk"),
        (lambda: retrieval_metrics(rows[:9], labels[:9], rows, labels, exclude_self=True), "exclude_self"),
        (lambda: retrieval_metrics(rows, labels + 9, rows, labels), "query_labels"),
        (lambda: retrieval_metrics(rows, labels[:9], rows, labels), "query_labels"),
        (lambda: retrieval_metrics(rows, labels, rows, labels[:9]), "gallery_labels"),
        (lambda: retrieval_metrics(rows[:, :2], labels, rows, labels), "query"),
        (lambda: retrieval_metrics(rows[0], labels, rows, labels), "query"),
        (lambda: compatibility_matrix([], labels), "features"),
        (lambda: compatibility_matrix([rows], labels, metric="recall"), "metric"),
        (lambda: average_compatibility([[1.0, 2.0]]), "matrix"),
        (lambda: backfill_order(rows, labels, "uncertainty"), "strategy"),
        (lambda: backfill_order(rows, labels[:9]), "labels"),
        (lambda: backfill_curve(rows, labels, rows, rows, labels, order, metric="recall"), "metric"),
        (lambda: backfill_curve(rows, labels, rows, rows, labels, order[:9]), "order"),
        (lambda: backfill_curve(rows, labels, rows, rows, labels, order.clamp(max=38)), "order"),
        (lambda: backfill_curve(rows, labels, rows, rows[:9], labels, order), "new_gallery"),
        *(
            (lambda bad=bad: backfill_curve(rows, labels, rows, rows, labels, order, bad), "fractions")
            for bad in ([0.0, 1.1], [-0.1, 1.0], [0.5, 0.5], [0.6, 0.5], [], [math.nan])
        ),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()
