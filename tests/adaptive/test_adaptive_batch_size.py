"""Batch-size tests, moments, controller and sampler against loops over samples written out here; errors."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normviz.adaptive import (
    AdaptiveBatchSize,
    BatchTestResult,
    GradientMoments,
    GrowingBatchSampler,
    augmented_inner_product_test,
    combine_moments,
    coordinatewise_norm_test,
    inner_product_test,
    norm_test,
    orthogonality_test,
    per_sample_gradients,
    plan_micro_batches,
    variance_from_microbatches,
)

SHAPES = ((3, 2), (4,), (2, 1, 2))


def samples(B: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64, mean: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(B, *shape, dtype=torch.float64, generator=generator).add(mean).to(dtype)
        for shape in SHAPES
    ]


def rows(grads: Any) -> np.ndarray[Any, Any]:
    """All tensors side by side in float64: (B, d)."""
    return np.concatenate([g.double().numpy().reshape(len(g), -1) for g in grads], axis=1)


def unbiased(values: Any) -> float:
    """Variance of numbers with divisor n - 1."""
    center = math.fsum(values) / len(values)
    return math.fsum((v - center) ** 2 for v in values) / (len(values) - 1)


def by_hand(grads: Any) -> dict[str, float]:
    """Every statistic by explicit sums over samples and coordinates."""
    G = rows(grads)
    g = G.mean(0)
    norm_sq = math.fsum(g**2)
    R = [G[i] - (G[i] @ g) / norm_sq * g for i in range(len(G))]
    blocks = [rows([x]) for x in grads]
    return {
        "norm_sq": norm_sq,
        "total": math.fsum(unbiased(column) for column in G.T),
        "inner": unbiased([G[i] @ g for i in range(len(G))]),
        "orthogonal": math.fsum(unbiased(column) for column in np.array(R).T),
        "inner_blocks": math.fsum(unbiased([row @ b.mean(0) for row in b]) for b in blocks),
        "orthogonal_blocks": math.fsum(
            unbiased(column)
            for b in blocks
            for column in np.array([row - (row @ m) / (m @ m) * m for m in [b.mean(0)] for row in b]).T
        ),
        "worst": max(unbiased(column) / m**2 for column, m in zip(G.T, g, strict=True)),
    }


# ------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("as_dict", [False, True])
def test_every_test_equals_its_sums(dtype: torch.dtype, as_dict: bool) -> None:
    grads = samples(dtype=dtype)
    given: Any = {str(i): g for i, g in enumerate(grads)} if as_dict else grads
    hand = by_hand(grads)
    n = hand["norm_sq"]
    cases = [
        (norm_test(given, 0.3), hand["total"], hand["total"] / (0.09 * n)),
        (inner_product_test(given, 0.2), hand["inner"], hand["inner"] / (0.04 * n**2)),
        (inner_product_test(given, 0.2, True), hand["inner_blocks"], hand["inner_blocks"] / (0.04 * n**2)),
        (orthogonality_test(given, 0.5), hand["orthogonal"], hand["orthogonal"] / (0.25 * n)),
        (
            orthogonality_test(given, 0.5, True),
            hand["orthogonal_blocks"],
            hand["orthogonal_blocks"] / (0.25 * n),
        ),
        (coordinatewise_norm_test(given, 0.4), hand["total"], hand["worst"] / 0.16),
    ]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for result, variance, s in cases:
        assert isinstance(result, BatchTestResult)
        assert result.suggestion == pytest.approx(s, rel=tolerance)
        assert result.variance == pytest.approx(variance, rel=tolerance)
        assert result.grad_norm_sq == pytest.approx(n, rel=tolerance)
        assert result.passed == (result.suggestion <= 7)
        assert result.batch_size == (7 if result.passed else math.ceil(result.suggestion))


def test_augmented_is_the_larger_of_the_two() -> None:
    grads = samples()
    for theta, nu, larger in ((0.01, 10.0, "inner"), (10.0, 0.01, "orthogonal")):
        result = augmented_inner_product_test(grads, theta, nu)
        parts = {"inner": inner_product_test(grads, theta), "orthogonal": orthogonality_test(grads, nu)}
        assert result == parts[larger]
        assert result.suggestion == max(part.suggestion for part in parts.values())


def test_both_outcomes_by_hand() -> None:
    grads = [torch.tensor([[1.0], [3.0]])]  # g = 2, V = 2
    assert norm_test(grads, eta=0.5) == (2, 2.0, True, 2.0, 4.0)
    passed, size = norm_test(grads, eta=0.1)[2], norm_test(grads, eta=0.1).batch_size
    assert (passed, size) == (False, 50)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), B=st.integers(2, 9), mean=st.floats(0.1, 3))
def test_check_1_decomposition(seed: int, B: int, mean: float) -> None:
    grads = samples(B, seed, mean=mean)
    eta, theta, nu = 0.3, 0.7, 0.2
    a, b, c = norm_test(grads, eta), inner_product_test(grads, theta), orthogonality_test(grads, nu)
    assert a.variance == pytest.approx(b.variance / a.grad_norm_sq + c.variance, rel=1e-10)
    assert a.suggestion * eta**2 == pytest.approx(b.suggestion * theta**2 + c.suggestion * nu**2, rel=1e-10)


TESTS = [
    norm_test,
    inner_product_test,
    orthogonality_test,
    coordinatewise_norm_test,
    lambda grads, tolerance: inner_product_test(grads, tolerance, blockwise=True),
    lambda grads, tolerance: orthogonality_test(grads, tolerance, blockwise=True),
    lambda grads, tolerance: augmented_inner_product_test(grads, tolerance, tolerance),
]


@pytest.mark.parametrize("call", TESTS)
def test_check_2_tolerance_and_scale(call: Any) -> None:
    grads = samples()
    s = call(grads, 0.2).suggestion
    assert call(grads, 0.1).suggestion == pytest.approx(4 * s, rel=1e-12)
    for c in (-1.0, 3.7, 1e-6, 1e-120, 1e120):
        assert call([c * g for g in grads], 0.2).suggestion == pytest.approx(s, rel=1e-10)
    single = [g.float() for g in grads]
    for c in (1e-25, 1e25):
        assert call([c * g for g in single], 0.2).suggestion == pytest.approx(s, rel=1e-4)


@pytest.mark.parametrize("call", TESTS)
def test_check_3_identical_samples_pass(call: Any) -> None:
    one = samples(1)
    grads = [g.repeat(6, *[1] * (g.ndim - 1)) for g in one]
    result = call(grads, 0.1)
    assert result.passed
    assert result.suggestion < 1e-20
    assert result.batch_size == 6
    sizes = AdaptiveBatchSize(initial_batch_size=6)
    assert sizes.step(grads) == 6
    zeros = call([torch.zeros(3, 2)], 0.1)
    assert zeros == (3, 0.0, True, 0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), mean=st.floats(-3, 3))
def test_check_4_coordinatewise_suggests_at_least_as_much(seed: int, mean: float) -> None:
    grads = samples(5, seed, mean=mean)
    assert coordinatewise_norm_test(grads, 0.3).suggestion >= norm_test(grads, 0.3).suggestion * (1 - 1e-12)


@pytest.mark.parametrize(
    ("quantile", "rank"), [(1.0, 14), (0.5, 7), (0.51, 8), (0.001, 1), (0.93, 14), (0.92, 13)]
)
def test_quantile_is_a_rank_without_interpolation(quantile: float, rank: int) -> None:
    grads = samples()
    G = rows(grads)
    ratios = sorted(unbiased(column) / (0.09 * column.mean() ** 2) for column in G.T)
    result = coordinatewise_norm_test(grads, 0.3, quantile)
    assert result.suggestion == pytest.approx(ratios[rank - 1], rel=1e-12)


def test_a_coordinate_without_variance_passes_whatever_its_mean() -> None:
    grads = [torch.tensor([[0.0, 1.0], [0.0, 3.0]])]
    assert coordinatewise_norm_test(grads, 0.5).suggestion == pytest.approx(2.0)
    free = [torch.tensor([[1.0, 1.0], [-1.0, 3.0]])]  # g_1 = 0 but V_1 > 0
    with pytest.raises(ValueError, match="grads"):
        coordinatewise_norm_test(free, 0.5)
    assert coordinatewise_norm_test(free, 0.5, quantile=0.5).suggestion == pytest.approx(2.0)
    assert AdaptiveBatchSize("coordinatewise", max_batch_size=77).step(free) == 77


def test_blockwise_with_a_tensor_of_mean_zero() -> None:
    still, balanced = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [-2.0]])
    result = orthogonality_test([still, balanced], 1.0, blockwise=True)
    assert result.variance == pytest.approx(8.0)  # r_i of the first tensor is 0, of the second g_i


def test_check_7_expected_suggestion_for_gaussian_gradients() -> None:
    """E[s] ~ d sigma^2 / (eta^2 (||mu||^2 + d sigma^2 / b))."""
    d, b, sigma, eta = 200, 16, 0.5, 0.3
    mu = torch.full((d,), 0.1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = [
        norm_test([mu + sigma * torch.randn(b, d, dtype=torch.float64, generator=generator)], eta).suggestion
        for _ in range(200)
    ]
    expected = d * sigma**2 / (eta**2 * (d * 0.01 + d * sigma**2 / b))
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


# -------------------------------------------------------------------------------- per-sample gradients


def small_net(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.GroupNorm(1, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 3),
    )
    return net.to(dtype)


def images(dtype: torch.dtype, B: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(B, 1, 4, 4, dtype=torch.float64, generator=generator).to(dtype),
        torch.randint(3, (B,), generator=generator),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_check_5_mean_is_the_minibatch_gradient(
    dtype: torch.dtype, tolerance: float, chunk_size: int | None
) -> None:
    net, (x, y) = small_net(dtype), images(dtype)
    grads = per_sample_gradients(net, nn.functional.cross_entropy, x, y, chunk_size)
    assert list(grads) == [name for name, _ in net.named_parameters()]
    assert all(p.grad is None for p in net.parameters())
    for i in range(len(x)):  # each sample on its own
        net.zero_grad()
        nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        for name, p in net.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(grads[name][i], p.grad, rtol=10 * tolerance, atol=tolerance)
    net.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert not grads[name].requires_grad
        torch.testing.assert_close(grads[name].mean(0), p.grad, rtol=0, atol=tolerance)


def test_frozen_parameters_are_left_out_and_nothing_changes() -> None:
    net, (x, y) = small_net(torch.float32), images(torch.float32)
    net[0].requires_grad_(False)
    net.insert(0, nn.BatchNorm2d(1))
    net.train()
    net[0].eval()
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before = copy.deepcopy(net.state_dict())
    grads = per_sample_gradients(net, nn.functional.cross_entropy, x, y)
    assert set(grads) == {name for name, p in net.named_parameters() if p.requires_grad}
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert net.training
    assert not net[0].training
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))


def test_batch_statistics_are_refused_by_name() -> None:
    x, y = images(torch.float32)
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4)), nn.Linear(4, 3))
    with pytest.raises(RuntimeError, match=r"BatchNorm1d \('1\.1'\)"):
        per_sample_gradients(net, nn.functional.cross_entropy, x, y)
    assert len(per_sample_gradients(net.eval(), nn.functional.cross_entropy, x, y)) == 6
    free = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False)).eval()
    with pytest.raises(RuntimeError, match="BatchNorm1d"):
        per_sample_gradients(free, nn.functional.cross_entropy, x, y)


def test_randomness_of_dropout() -> None:
    net = nn.Sequential(nn.Linear(6, 40, bias=False), nn.Dropout(0.5))
    x, y = torch.ones(4, 6), torch.zeros(4, 40)

    def draw(randomness: str) -> Tensor:
        torch.manual_seed(0)
        return per_sample_gradients(net, nn.functional.mse_loss, x, y, randomness=randomness)["0.weight"]

    with pytest.raises(RuntimeError, match="random"):
        draw("error")
    same, different = draw("same"), draw("different")
    assert torch.equal(same[0] == 0, same[1] == 0)
    assert not torch.equal(different[0] == 0, different[1] == 0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"chunk_size": 0}, "chunk_size"),
        ({"randomness": "any"}, "randomness"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "targets"),
        ({"inputs": torch.zeros(0, 1, 4, 4), "targets": torch.zeros(0)}, "inputs"),
        ({"model": nn.Flatten()}, "model"),
    ],
)
def test_what_per_sample_gradients_refuse(options: dict[str, Any], word: str) -> None:
    x, y = images(torch.float32)
    given = {
        "model": small_net(torch.float32),
        "loss_fn": nn.functional.cross_entropy,
        "inputs": x,
        "targets": y,
    }
    with pytest.raises(ValueError, match=word):
        per_sample_gradients(**{**given, **options})


# ----------------------------------------------------------------------------------------------- moments


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_check_6_pooled_moments_of_any_split_are_those_of_all(seed: int, cuts: list[int]) -> None:
    N = max(2, sum(cuts))
    cuts = cuts if sum(cuts) > 1 else [1, 1]
    grads = samples(N, seed)
    ends = np.cumsum(cuts)
    shards = [GradientMoments.of([g[e - c : e] for g in grads]) for e, c in zip(ends, cuts, strict=True)]
    assert all(math.isnan(float(shard.var[0].flatten()[0])) for shard in shards if shard.count == 1)
    pooled = combine_moments(shards)
    assert pooled.count == N
    G = rows(grads)
    np.testing.assert_allclose(rows([m[None] for m in pooled.mean])[0], G.mean(0), rtol=0, atol=1e-12)
    variances = [unbiased(column) for column in G.T]
    np.testing.assert_allclose(rows([v[None] for v in pooled.var])[0], variances, rtol=0, atol=1e-12)
    assert norm_test(pooled, 0.3) == pytest.approx(norm_test(grads, 0.3), rel=1e-9)


def test_check_6_the_public_codes_formula() -> None:
    grads = samples(12)
    parts = [[g[4 * k : 4 * k + 4] for g in grads] for k in range(3)]
    pooled = combine_moments([GradientMoments.of(part) for part in parts], exact=False)
    for i in range(len(SHAPES)):
        means = [part[i].mean(0) for part in parts]
        g = sum(means) / 3
        V = sum(part[i].var(0) for part in parts) / 3 + sum(m**2 for m in means) / 3 - g**2
        torch.testing.assert_close(pooled.mean[i], g, rtol=0, atol=1e-12)
        torch.testing.assert_close(pooled.var[i], V, rtol=0, atol=1e-12)
    exact = combine_moments([GradientMoments.of(part) for part in parts])
    assert not torch.allclose(exact.var[0], pooled.var[0], rtol=1e-3)


def test_micro_batches_estimate_the_per_sample_variance() -> None:
    m, K = 8, 5
    grads = samples(m * K)
    means = {str(i): g.reshape(K, m, *g.shape[1:]).mean(1) for i, g in enumerate(grads)}
    moments = variance_from_microbatches(means, m)
    assert moments.count == m * K
    for i, G in enumerate(means.values()):
        torch.testing.assert_close(moments.mean[i], grads[i].mean(0))
        expected = m * sum((G[k] - G.mean(0)) ** 2 for k in range(K)) / (K - 1)
        torch.testing.assert_close(moments.var[i], expected, rtol=0, atol=1e-12)
    # Unbiased: the mean over many draws is the variance 1 of a sample.
    draws = torch.randn(400, K, m, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mean(2)
    found = torch.stack([variance_from_microbatches([draw], m).var[0] for draw in draws])
    assert float(found.mean()) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: combine_moments([]), "list"),
        (lambda: combine_moments([GradientMoments.of(samples(1))]), "list"),
        (
            lambda: combine_moments([GradientMoments.of(samples(2)), GradientMoments.of(samples(2)[:1])]),
            "list",
        ),
        (lambda: variance_from_microbatches(samples(1), 4), "mean_grads"),
        (lambda: variance_from_microbatches(samples(3), 0), "micro_batch_size"),
        (lambda: variance_from_microbatches([], 2), "mean_grads"),
        (lambda: GradientMoments(0, [torch.ones(1)], [torch.ones(1)]), "count"),
        (lambda: GradientMoments(2, [torch.ones(1)], [torch.ones(2)]), "mean"),
        (lambda: norm_test(GradientMoments.of(samples(1))), "grads"),
        (lambda: norm_test(GradientMoments(3, [torch.ones(1)], [torch.full((1,), math.nan)])), "grads"),
        (lambda: inner_product_test(GradientMoments.of(samples())), "moments"),  # type: ignore[arg-type]
    ],
)
def test_bad_moments(call: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize("call", TESTS)
@pytest.mark.parametrize(
    "grads",
    [
        [],
        {},
        [torch.ones(1, 3)],
        [torch.ones(2, 3), torch.ones(3, 3)],
        [torch.tensor(1.0)],
        [torch.tensor([[1.0], [math.nan]])],
        [torch.tensor([[1.0], [math.inf]]), torch.ones(2, 2)],
        [torch.tensor([[1.0], [-1.0]])],
    ],
)
def test_bad_gradients(call: Any, grads: Any) -> None:
    with pytest.raises(ValueError, match="grads"):
        call(grads, 0.1)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda g: norm_test(g, 0.0), "eta"),
        (lambda g: inner_product_test(g, -1.0), "theta"),
        (lambda g: orthogonality_test(g, 0.0), "nu"),
        (lambda g: augmented_inner_product_test(g, 0.0), "theta"),
        (lambda g: augmented_inner_product_test(g, nu=0.0), "nu"),
        (lambda g: coordinatewise_norm_test(g, 0.0), "eta"),
        (lambda g: coordinatewise_norm_test(g, quantile=0.0), "quantile"),
        (lambda g: coordinatewise_norm_test(g, quantile=1.1), "quantile"),
    ],
)
def test_bad_tolerances(call: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call(samples())


# -------------------------------------------------------------------------------------------- controller


def with_suggestion(s: float, B: int = 4) -> list[Tensor]:
    """Gradients for which the norm test at eta = 1 suggests exactly s: mean 1, variance s."""
    spread = math.sqrt(s * (B - 1) / B)
    signs = torch.tensor([1.0, -1.0] * (B // 2), dtype=torch.float64)
    return [(1 + spread * signs).unsqueeze(1)]


def test_the_rule_step_by_step() -> None:
    sizes = AdaptiveBatchSize(eta=1.0, initial_batch_size=8, max_batch_size=100)
    assert [sizes.step(with_suggestion(s)) for s in (3.5, 20.2, 10.5, 21.0 - 1e-9, 40.7)] == [
        8,
        21,
        21,
        21,
        41,
    ]
    assert [r.batch_size for r in sizes.history] == [8, 21, 21, 21, 41]
    assert [r.passed for r in sizes.history] == [True, False, True, True, False]
    assert [r.suggestion for r in sizes.history] == pytest.approx([3.5, 20.2, 10.5, 21, 40.7])
    assert sizes.step(with_suggestion(1e6)) == 100
    assert sizes.history[-1].batch_size == 100
    assert sizes.history[-1].suggestion == pytest.approx(1e6)
    assert sizes.step([]) == 100  # no more tests
    assert len(sizes.history) == 6


def test_tests_are_made_at_multiples_of_the_interval() -> None:
    sizes = AdaptiveBatchSize(eta=1.0, test_interval=3)
    assert [sizes.step(with_suggestion(10.0 + i)) for i in range(1, 8)] == [8, 8, 13, 13, 13, 16, 16]
    assert len(sizes.history) == 2


def test_a_zero_gradient_goes_to_the_largest_size() -> None:
    balanced = [torch.tensor([[1.0], [-1.0]])]
    for test in ("norm", "inner_product", "augmented", "coordinatewise"):
        sizes = AdaptiveBatchSize(test, max_batch_size=50)
        assert sizes.step(balanced) == 50
        assert sizes.history[-1].suggestion == math.inf
        assert not sizes.history[-1].passed
        still = AdaptiveBatchSize(test)
        assert still.step([torch.zeros(3, 2)]) == 8
        assert still.history[-1].passed


@settings(max_examples=25, deadline=None)
@given(
    scales=st.lists(st.floats(0.01, 30), min_size=1, max_size=12),
    test=st.sampled_from(["norm", "inner_product", "augmented", "coordinatewise"]),
)
def test_check_8_sizes_are_monotone_and_end_at_the_largest(scales: list[float], test: str) -> None:
    sizes = AdaptiveBatchSize(test, eta=0.5, theta=0.5, nu=0.5, max_batch_size=300)
    path = [sizes.batch_size]
    for i, scale in enumerate(scales):
        grads = samples(6, i, mean=0.0)
        path.append(sizes.step([scale * g + 1 for g in grads]))
    assert all(a <= b <= 300 for a, b in pairwise(path))
    tests = len(sizes.history)
    if path[-1] == 300:
        sizes.step(samples())
        assert len(sizes.history) == tests


def test_every_kind_of_test_is_used_with_its_options() -> None:
    grads = samples(mean=0.4)
    calls = {
        "norm": norm_test(grads, 0.2),
        "inner_product": inner_product_test(grads, 0.15, True),
        "augmented": augmented_inner_product_test(grads, 0.15, 0.3, True),
        "coordinatewise": coordinatewise_norm_test(grads, 0.2, 0.6),
    }
    for test, expected in calls.items():
        sizes = AdaptiveBatchSize(
            test, eta=0.2, theta=0.15, nu=0.3, initial_batch_size=7, blockwise=True, quantile=0.6
        )
        sizes.step(grads)
        assert sizes.history == [expected]
    moments = GradientMoments.of(grads)
    for test in ("norm", "coordinatewise"):
        sizes = AdaptiveBatchSize(test, eta=0.2, initial_batch_size=7, quantile=0.6)
        sizes.step(moments)
        assert sizes.history[0] == pytest.approx(calls[test], rel=1e-12)
    for test in ("inner_product", "augmented"):
        with pytest.raises(ValueError, match="grads_or_moments"):
            AdaptiveBatchSize(test, test_interval=2).step(moments)


def test_a_refused_step_changes_nothing() -> None:
    sizes = AdaptiveBatchSize(eta=1.0, test_interval=2)
    sizes.step([])
    for bad in ([torch.ones(1, 2)], [torch.full((2, 2), math.nan)]):
        with pytest.raises(ValueError, match="grads"):
            sizes.step(bad)
    assert sizes.state_dict()["step"] == 1
    assert sizes.step(with_suggestion(30.5)) == 31


def test_check_11_round_trip_of_the_controller() -> None:
    first = AdaptiveBatchSize(eta=1.0, test_interval=2)
    for s in (9.0, 12.5, 30.0):
        first.step(with_suggestion(s))
    second = AdaptiveBatchSize(eta=1.0, test_interval=2)
    second.load_state_dict(first.state_dict())
    assert first.state_dict()["history_length"] == 1
    for s in (17.2, 40.0, 41.5):
        assert second.step(with_suggestion(s)) == first.step(with_suggestion(s))
    assert second.history == first.history
    assert second.state_dict() == first.state_dict()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"test": "variance"}, "test"),
        ({"eta": 0.0}, "eta"),
        ({"theta": 0.0}, "theta"),
        ({"nu": -1.0}, "nu"),
        ({"initial_batch_size": 0}, "initial_batch_size"),
        ({"initial_batch_size": 9, "max_batch_size": 8}, "max_batch_size"),
        ({"test_interval": 0}, "test_interval"),
        ({"quantile": 0.0}, "quantile"),
    ],
)
def test_bad_settings(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{word}\b"):
        AdaptiveBatchSize(**options)


# ------------------------------------------------------------------------------------- sampler and splitting


def test_the_sampler_follows_the_controller_inside_an_epoch() -> None:
    sizes = AdaptiveBatchSize(initial_batch_size=4)
    lengths, seen = [], []
    for batch in GrowingBatchSampler(50, sizes, torch.Generator().manual_seed(0)):
        lengths.append(len(batch))
        seen += batch
        sizes.batch_size += 5
    assert lengths == [4, 9, 14, 19, 4]
    assert sorted(seen) == list(range(50))
    assert seen != list(range(50))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), b=st.integers(1, 70))
def test_every_index_once_and_no_batch_of_one_left_over(n: int, b: int) -> None:
    sampler = GrowingBatchSampler(n, AdaptiveBatchSize(initial_batch_size=b, max_batch_size=100))
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(len(batch) == b for batch in batches[:-1])
    assert len(batches[-1]) <= b + 1
    assert n == 1 or len(batches[-1]) > 1


def test_epochs_are_shuffled_anew_and_loaders_take_the_sampler() -> None:
    sampler = GrowingBatchSampler(
        10, AdaptiveBatchSize(initial_batch_size=4), torch.Generator().manual_seed(0)
    )
    first, second = list(sampler), list(sampler)
    assert first != second
    again = GrowingBatchSampler(10, AdaptiveBatchSize(initial_batch_size=4), torch.Generator().manual_seed(0))
    assert list(again) == first
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_sampler=again)
    assert [batch[0].tolist() for batch in loader] == second
    with pytest.raises(ValueError, match=r"\bn\b"):
        GrowingBatchSampler(0, AdaptiveBatchSize())


@settings(max_examples=60, deadline=None)
@given(b=st.integers(1, 5000), most=st.integers(1, 300), W=st.integers(1, 9), A=st.integers(1, 9))
def test_micro_batches_hold_the_batch(b: int, most: int, W: int, A: int) -> None:
    micro, accumulation, total = plan_micro_batches(b, most, W, A)
    assert total == micro * W * accumulation >= b
    assert 1 <= micro <= most
    if math.ceil(b / (W * A)) <= most:
        assert (micro, accumulation) == (math.ceil(b / (W * A)), A)
    else:
        assert (micro, accumulation) == (most, math.ceil(b / (W * most)))


@pytest.mark.parametrize("arguments", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_micro_batches_of_nothing(arguments: tuple[int, ...]) -> None:
    word = ("batch", "max_micro", "world", "accumulation")[arguments.index(0)]
    with pytest.raises(ValueError, match=word):
        plan_micro_batches(*arguments)
