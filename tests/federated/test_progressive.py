"""The top-K buffer, the server's mean, the exchange of weights, and who is adjusted when."""

from __future__ import annotations

import doctest
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.federated import (
    BlockSchedule,
    TopKBuffer,
    aggregate_topk,
    progressive,
    prune_and_grow,
    topk_gradients,
)
from tests.federated.small import randn

BLOCKS = [["a"], ["b", "c"], ["d"], ["e"], ["f"]]


def sorted_pairs(grad, mask, k):
    """Full sort in Python by (-|g|, index)."""
    flat, active = grad.flatten().tolist(), mask.flatten().tolist()
    order = sorted((i for i in range(len(flat)) if not active[i]), key=lambda i: (-abs(flat[i]), i))[:k]
    return order, [flat[i] for i in order]


@given(st.integers(0, 30), st.integers(0, 2**31), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_check_4_the_buffer_over_chunks_is_a_full_sort(k, seed, n):
    rng = np.random.default_rng(seed)
    grad = torch.from_numpy(rng.integers(-4, 5, size=n) / 4.0)  # many ties
    mask = torch.from_numpy(rng.random(n) < 0.4)
    cuts = sorted({0, n, *rng.integers(0, n + 1, size=3).tolist()})
    pieces = list(pairwise(cuts))
    buffer = TopKBuffer(k)
    for i in rng.permutation(len(pieces)):
        a, b = pieces[i]
        buffer.push(a, grad[a:b], mask[a:b])
        assert len(buffer) <= k
    indices, values = buffer.result()
    assert (indices.tolist(), values.tolist()) == sorted_pairs(grad, mask, k)
    again = topk_gradients(grad.view(1, n), mask.view(1, n), k)
    assert again[0].tolist() == indices.tolist()


def test_an_empty_buffer():
    assert [len(entry) for entry in TopKBuffer(3).result()] == [0, 0]
    assert len(TopKBuffer(3)) == 0
    for arguments, name in ((("x",), "k"), ((-1,), "k")):
        with pytest.raises(ValueError, match=name):
            TopKBuffer(*arguments)
    with pytest.raises(ValueError, match="start"):
        TopKBuffer(1).push(-1, torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match="mask"):
        TopKBuffer(1).push(0, torch.ones(2), torch.zeros(1))


def test_active_weights_are_no_candidates():
    grad = torch.tensor([[9.0, -8.0], [1.0, -2.0]])
    indices, values = topk_gradients(grad, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 5)
    assert indices.tolist() == [3, 2]
    assert values.tolist() == [-2.0, 1.0]


def test_check_5_the_mean_of_uploads():
    one = (torch.tensor([1, 4]), torch.tensor([4.0, -2.0]))
    other = (torch.tensor([4]), torch.tensor([6.0]))
    mean = aggregate_topk([one, other], [30, 10], (2, 3))
    assert mean.tolist() == [[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    assert aggregate_topk([one], [7], (6,)).tolist() == [0, 4, 0, 0, -2, 0]


def test_check_5_one_client_grows_its_upload():
    grad, weight = randn(6, 5), randn(6, 5, seed=1)
    mask = randn(6, 5, seed=2) > 0
    upload = topk_gradients(grad, mask, 4)
    _, new = prune_and_grow(weight * mask, mask, aggregate_topk([upload], [3], (6, 5)), 4)
    grown = torch.nonzero((new & ~mask).flatten()).flatten()
    assert set(grown.tolist()) == set(upload[0].tolist())


def test_uploads_that_are_refused():
    pair = torch.tensor([3]), torch.tensor([1.0])
    with pytest.raises(ValueError, match="sizes"):
        aggregate_topk([pair], [1, 2], (4,))
    with pytest.raises(ValueError, match="sizes"):
        aggregate_topk([], [], (4,))
    with pytest.raises(ValueError, match="uploads must have indices"):
        aggregate_topk([pair], [1], (3,))
    with pytest.raises(ValueError, match="uploads must have one value"):
        aggregate_topk([(torch.tensor([1, 2]), torch.tensor([1.0]))], [1], (3,))


def by_hand(weight, mask, grad, k):
    """Plain Python lists."""
    w, m, g = (t.flatten().tolist() for t in (weight, mask, grad))
    active = [i for i in range(len(w)) if m[i]]
    inactive = [i for i in range(len(w)) if not m[i]]
    k = min(k, len(active), len(inactive))
    out = sorted(active, key=lambda i: (abs(w[i]), i))[:k]
    new = sorted(inactive, key=lambda i: (-abs(g[i]), i))[:k]
    kept = set(active) - set(out)
    return [w[i] if i in kept else 0.0 for i in range(len(w))], [i in kept or i in new for i in range(len(w))]


@given(st.integers(0, 20), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_check_3_the_exchange(k, seed):
    rng = np.random.default_rng(seed)
    shape = (4, 3, 2)
    weight = torch.from_numpy(rng.integers(-3, 4, size=shape) / 2.0)
    mask = torch.from_numpy(rng.random(shape) < 0.5)
    weight = weight * mask
    grad = torch.from_numpy(rng.integers(-3, 4, size=shape) * 1.0)
    before = weight.clone(), mask.clone(), grad.clone()
    values, new = prune_and_grow(weight, mask, grad, k)
    expected = by_hand(weight, mask, grad, k)
    assert (values.flatten().tolist(), new.flatten().tolist()) == expected
    count = min(k, int(mask.sum()), int((~mask).sum()))
    assert int(new.sum()) == int(mask.sum())
    assert int((new & ~mask).sum()) == int((mask & ~new).sum()) == count
    assert torch.count_nonzero(values[new & ~mask]) == 0
    assert torch.count_nonzero(values[~new]) == 0
    assert all(torch.equal(a, b) for a, b in zip((weight, mask, grad), before, strict=True))


def test_stale_values_do_not_come_back():
    weight = torch.tensor([3.0, 1.0, 7.0, 7.0])
    values, _ = prune_and_grow(weight, torch.tensor([1, 1, 0, 0]), torch.tensor([0.0, 0.0, 5.0, 1.0]), 1)
    assert values.tolist() == [3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_the_mask_keeps_its_dtype(dtype):
    mask = torch.tensor([1, 1, 0, 0]).to(dtype)
    _, new = prune_and_grow(torch.tensor([2.0, 1.0, 0.0, 0.0]), mask, torch.tensor([0.0, 0.0, 1.0, 2.0]), 1)
    assert new.dtype == dtype
    assert new.tolist() == [1, 0, 0, 1]


def test_growing_from_all_inactive_weights():
    """The smallest active weight has the largest gradient: it leaves and enters at once and keeps its value."""
    weight, mask = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, True, False])
    grad = torch.tensor([0.0, 9.0, 0.0, 1.0])
    values, new = prune_and_grow(weight, mask, grad, 1, "all_inactive")
    assert values.tolist() == [3.0, 1.0, 2.0, 0.0]
    assert torch.equal(new, mask)
    values, new = prune_and_grow(weight, mask, grad, 1)
    assert values.tolist() == [3.0, 0.0, 2.0, 0.0]
    assert new.tolist() == [True, False, True, True]


def test_nothing_to_exchange():
    weight, mask = randn(3, 3), torch.ones(3, 3, dtype=torch.bool)
    for k, m in ((0, mask), (5, mask), (5, ~mask)):
        values, new = prune_and_grow(weight * m, m, randn(3, 3, seed=1), k)
        assert torch.equal(values, weight * m)
        assert torch.equal(new, m)


def test_exchanges_that_are_refused():
    w, m = torch.ones(3), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="grow_from must be one of"):
        prune_and_grow(w, m, w, 1, "inactive")
    with pytest.raises(ValueError, match=r"^k "):
        prune_and_grow(w, m, w, -1)
    with pytest.raises(ValueError, match="mask and grad must have the shape"):
        prune_and_grow(w, m, torch.ones(2), 1)


def test_check_6_blocks_take_turns():
    schedule = BlockSchedule(BLOCKS, 10, 100)
    assert schedule.rounds() == [(10 * i, (4 - (i - 1)) % 5) for i in range(1, 11)]
    assert schedule.rounds()[:6] == [(10, 4), (20, 3), (30, 2), (40, 1), (50, 0), (60, 4)]
    assert schedule.names(40) == ["b", "c"]
    assert schedule.names(41) == schedule.names(0) == schedule.names(110) == []
    assert schedule.block(5) is None
    assert BlockSchedule(BLOCKS, 3, 20, "forward").rounds() == [
        (3, 0),
        (6, 1),
        (9, 2),
        (12, 3),
        (15, 4),
        (18, 0),
    ]
    layers = BlockSchedule(BLOCKS, 1, 7, granularity="layer")
    assert [layers.names(r) for r in range(1, 8)] == [["f"], ["e"], ["d"], ["c"], ["b"], ["a"], ["f"]]
    entire = BlockSchedule(BLOCKS, 2, 6, granularity="entire")
    assert entire.rounds() == [(2, 0), (4, 0), (6, 0)]
    assert entire.names(4) == list("abcdef")


def test_a_schedule_that_ends_before_it_begins():
    with pytest.warns(UserWarning, match="stop"):
        schedule = BlockSchedule(BLOCKS, 10, 9)
    assert schedule.rounds() == []
    assert schedule.block(10) is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"interval": 0}, "interval"),
        ({"stop": -1}, "stop"),
        ({"order": "up"}, "order"),
        ({"granularity": "model"}, "granularity"),
        ({"blocks": []}, "blocks"),
        ({"blocks": [["a"], []]}, "blocks"),
        ({"blocks": [["a"], ["a"]]}, "blocks"),
    ],
)
def test_schedules_that_are_refused(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        BlockSchedule(**{"blocks": BLOCKS, **arguments})


def test_examples():
    assert doctest.testmod(progressive).failed == 0
