"""BNPO: Beta fit, advantages, estimators, second moment and policy loss against scipy and plain Python loops."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from normviz import weighting
from normviz.weighting import bnpo
from normviz.weighting.bnpo import (
    BNPO,
    beta_moments,
    bnpo_advantage,
    bnpo_advantage_from_index,
    bnpo_parameters,
    clipped_policy_loss,
    decomposed_advantage,
    gradient_second_moment,
    group_advantage,
)

ESTIMATORS = [
    "bnpo", "reinforce", "reinforce_baseline", "grpo", "rloo", "reinforce++", "reinforce++_baseline"
]  # fmt: skip


def binary(Q: int, G: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """0/1 rewards whose success probability differs between questions."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(Q, 1, generator=g, dtype=torch.float64)
    return (torch.rand(Q, G, generator=g, dtype=torch.float64) < p).to(dtype)


def reference(R: list[list[float]]) -> list[list[float]]:
    """The algorithm's steps 1-5 for groups of any size, with scipy's Beta density."""
    p = [statistics.fmean(row) if len(row) > 1 else 0.0 for row in R]
    m, v = (statistics.fmean(p), statistics.variance(p)) if len(p) > 1 else (0.0, 1.0)
    kappa = m * (1 - m) / v - 1 if v > 1e-12 else 0.0
    alpha, beta = max(1 + kappa * m / 3, 1.0), max(1 + kappa * (1 - m) / 3, 1.0)
    A = []
    for row, mean in zip(R, p, strict=True):
        f = stats.beta.pdf(mean, alpha, beta)
        weight = min(1 / f, 1e6) if f > 0 else 1e6
        A.append([weight * (r - mean) for r in row])
    return A


# ---------------------------------------------------------------------------------------------------- Beta fit


def test_moments_recover_a_large_sample() -> None:
    """Check 5."""
    p = torch.from_numpy(stats.beta.rvs(2, 5, size=200_000, random_state=1))
    a, b = beta_moments(p)
    assert float(a) == pytest.approx(2, rel=0.05)
    assert float(b) == pytest.approx(5, rel=0.05)


def test_moments_by_hand() -> None:
    # m = 1/2, v = 1/16 (unbiased), kappa = (1/4)/(1/16) - 1 = 3.
    a, b = beta_moments(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert (float(a), float(b)) == pytest.approx((1.5, 1.5), rel=1e-12)
    alpha, beta = bnpo_parameters(torch.tensor([0.25, 0.5, 0.75]))
    assert (float(alpha), float(beta)) == pytest.approx((1.5, 1.5), rel=1e-6)
    assert alpha.ndim == beta.ndim == 0


def test_degenerate_fits() -> None:
    assert [float(x) for x in beta_moments(torch.tensor([0.3]))] == [0.0, -1.0]
    for constant in (0.0, 0.3, 1.0):
        p = torch.full((7,), constant)
        assert [float(x) for x in beta_moments(p)] == [0.0, 0.0]
        assert [float(x) for x in bnpo_parameters(p)] == [1.0, 1.0]
    # v = 1/2 > m (1 - m) = 1/4: kappa = -1/2, reported unclamped.
    p = torch.tensor([0.0, 1.0])
    assert [float(x) for x in beta_moments(p)] == [-0.25, -0.25]
    assert [float(x) for x in bnpo_parameters(p)] == [1.0, 1.0]


def test_sharply_concentrated_means_stay_accurate_in_float32() -> None:
    R = torch.zeros(4, 1000)
    for q, k in enumerate((499, 500, 500, 501)):
        R[q, :k] = 1
    result = bnpo_advantage(R)
    expected = np.array(reference(R.tolist()))
    assert float(result.alpha) > 1e4
    np.testing.assert_allclose(result.advantages.numpy(), expected, rtol=1e-3)


# --------------------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize(("Q", "G"), [(16, 8), (5, 3), (2, 4), (32, 16)])
def test_advantage_equals_plain_python(Q: int, G: int) -> None:
    for seed in range(3):
        R = binary(Q, G, seed)
        np.testing.assert_allclose(
            bnpo_advantage(R).advantages.numpy(), np.array(reference(R.tolist())), rtol=1e-9, atol=1e-12
        )


def test_result_fields() -> None:
    R = binary(12, 6)
    result = bnpo_advantage(R)
    torch.testing.assert_close(result.p, R.mean(1))
    a, b = beta_moments(result.p)
    alpha, beta = bnpo_parameters(result.p)
    assert [float(x) for x in result[3:]] == [float(x) for x in (a, b, alpha, beta)]
    pdf = stats.beta.pdf(R.mean(1).numpy(), float(alpha), float(beta))
    np.testing.assert_allclose(result.weight.numpy(), np.minimum(1 / np.maximum(pdf, 1e-300), 1e6), rtol=1e-9)
    torch.testing.assert_close(result.advantages, result.weight[:, None] * (R - R.mean(1, keepdim=True)))


def test_special_cases() -> None:
    """Check 2."""
    R = binary(30, 8, seed=4)
    p = R.mean(1, keepdim=True)
    flat = bnpo_advantage(R, alpha=1.0, beta=1.0)
    torch.testing.assert_close(flat.advantages, R - p)  # the weight is 1 up to the rounding of log-gamma
    half = bnpo_advantage(R, alpha=1.5, beta=1.5).advantages
    inside = ((p > 0) & (p < 1)).squeeze(1)
    expected = math.pi / 8 * (R - p) / (p * (1 - p)).sqrt()
    torch.testing.assert_close(half[inside], expected[inside], rtol=1e-6, atol=1e-6)
    a, b = beta_moments(p.squeeze(1))  # still the fit, although alpha and beta are fixed
    assert (float(flat.a), float(flat.b)) == (float(a), float(b))
    assert (float(flat.alpha), float(flat.beta)) == (1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda G: st.lists(st.lists(st.integers(0, 1), min_size=G, max_size=G), min_size=1, max_size=8)
    )
)
def test_any_binary_reward_is_finite_and_centred(rows: list[list[int]]) -> None:
    """Checks 3 and 4."""
    R = torch.tensor(rows, dtype=torch.float64)
    A = bnpo_advantage(R).advantages
    assert bool(A.isfinite().all())
    if R.shape[1] > 1:
        assert bool((A.sum(1).abs() <= 1e-9 * (1 + A.abs().sum(1))).all())
        constant = (R[:, :1] == R).all(1)
        assert bool((A[constant] == 0).all())


def test_capped_groups_have_exactly_zero_advantage() -> None:
    R = torch.tensor([[0.0] * 4, [1.0] * 4, [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    result = bnpo_advantage(R, alpha=2.0, beta=2.0)
    assert result.weight[:2].tolist() == [1e6, 1e6]
    assert torch.equal(result.advantages[:2], torch.zeros(2, 4))
    assert bnpo_advantage(R, alpha=2.0, beta=2.0, max_weight=50.0).weight.max() == 50.0


@pytest.mark.parametrize("G", [3, 7, 11])
def test_equal_rewards_leave_no_rounding_noise(G: int) -> None:
    # The mean of G equal numbers may be off by an ulp; times 1/f or divided by a vanishing std that is no longer small.
    level = torch.arange(1, 1000, dtype=torch.float32)[:, None] / 1000
    R = level.expand(999, G)
    mean = sum(R.unbind(1)) / G  # one after the other: a kernel's own order differs between processors
    assert bool((R[:, 0] - mean != 0).any())
    for name in ("bnpo", "grpo", "rloo", "reinforce_baseline"):
        assert torch.equal(group_advantage(R, name), torch.zeros(999, G))
    index = torch.arange(999).repeat_interleave(G)
    assert torch.equal(bnpo_advantage_from_index(R.flatten(), index), torch.zeros(999 * G))


def test_swapping_right_and_wrong() -> None:
    """Check 6."""
    R = binary(20, 6, seed=2)
    one, other = bnpo_advantage(R), bnpo_advantage(1 - R)
    torch.testing.assert_close(one.alpha, other.beta)
    torch.testing.assert_close(one.beta, other.alpha)
    torch.testing.assert_close(one.advantages, -other.advantages)


def test_permutations_permute() -> None:
    """Check 7."""
    R = binary(10, 5, seed=3)
    q, g = torch.randperm(10, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(bnpo_advantage(R[q][:, g]).advantages, bnpo_advantage(R).advantages[q][:, g])


def test_single_question_and_single_output() -> None:
    """Check 8."""
    R = torch.tensor([[1.0, 0.0, 0.0]])
    one = bnpo_advantage(R)
    assert (float(one.a), float(one.b), float(one.alpha), float(one.beta)) == (0.0, -1.0, 1.0, 1.0)
    assert torch.equal(one.advantages, R - R.mean())
    R = torch.tensor([[1.0], [0.0], [1.0]])
    alone = bnpo_advantage(R)
    assert torch.equal(alone.p, torch.zeros(3))
    assert (float(alone.alpha), float(alone.beta)) == (1.0, 1.0)
    assert torch.equal(alone.advantages, R)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 50), st.floats(-20, 20))
def test_affine_invariance(s: float, t: float) -> None:
    """Check 11."""
    R = binary(9, 6, seed=5)
    torch.testing.assert_close(
        bnpo_advantage(s * R + t, min_value=t, max_value=s + t).advantages,
        bnpo_advantage(R).advantages,
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float32])
def test_narrow_types_give_float32(dtype: torch.dtype) -> None:
    result = bnpo_advantage(binary(8, 4).to(dtype))
    assert {x.dtype for x in result} == {torch.float32}
    torch.testing.assert_close(result.advantages, bnpo_advantage(binary(8, 4)).advantages.float())
    assert group_advantage(binary(8, 4).to(dtype), "grpo").dtype == torch.float32
    assert {x.dtype for x in bnpo_advantage(binary(8, 4))} == {torch.float64}


def test_no_gradient_flows() -> None:
    R = binary(4, 4).requires_grad_()
    assert not bnpo_advantage(R).advantages.requires_grad
    assert not group_advantage(R, "grpo").requires_grad


def test_ragged_groups() -> None:
    groups = [[1.0, 0.0, 1.0], [0.0, 1.0], [1.0], [1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    labels = [7, -3, 100, 0, 12]
    order = np.random.default_rng(0).permutation(sum(map(len, groups)))
    scores = np.array(list(itertools.chain(*groups)))[order]
    index = np.array(list(itertools.chain(*[[k] * len(g) for k, g in zip(labels, groups, strict=True)])))[
        order
    ]
    expected = np.array(list(itertools.chain(*reference(groups))))[order]
    ours = bnpo_advantage_from_index(torch.from_numpy(scores), torch.from_numpy(index))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_index_of_equal_groups_equals_the_table() -> None:
    R = binary(6, 4, seed=8)
    index = torch.arange(6).repeat_interleave(4)
    shuffle = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"alpha": 1.5, "beta": 1.5}, {"min_value": -1.0, "max_value": 2.0}):
        A = bnpo_advantage(R, **options).advantages.flatten()
        ours = bnpo_advantage_from_index(R.flatten()[shuffle], index[shuffle], **options)
        torch.testing.assert_close(ours, A[shuffle])


# --------------------------------------------------------------------------------------------------- estimators


def test_estimators_by_hand() -> None:
    R = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    rows = R.tolist()
    flat = [x for row in rows for x in row]
    mean = [statistics.fmean(row) for row in rows]
    expected = {
        "reinforce": rows,
        "reinforce_baseline": [[x - m for x in row] for row, m in zip(rows, mean, strict=True)],
        "grpo": [
            [(x - m) / (statistics.stdev(row) + 1e-6) for x in row] for row, m in zip(rows, mean, strict=True)
        ],
        "rloo": [[x - (sum(row) - x) / 3 for x in row] for row in rows],
        "reinforce++": [
            [(x - statistics.fmean(flat)) / math.sqrt(statistics.variance(flat) + 1e-8) for x in row]
            for row in rows
        ],
    }
    centred = [x for row in expected["reinforce_baseline"] for x in row]
    scale = math.sqrt(statistics.variance(centred) + 1e-8)
    expected["reinforce++_baseline"] = [[x / scale for x in row] for row in expected["reinforce_baseline"]]
    for name, want in expected.items():
        np.testing.assert_allclose(group_advantage(R, name).numpy(), np.array(want), rtol=1e-12, atol=1e-15)
    greedy = torch.tensor([0.5, 1.0])
    np.testing.assert_allclose(
        group_advantage(R, "remax", greedy_rewards=greedy).numpy(),
        np.array([[x - g for x in row] for row, g in zip(rows, (0.5, 1.0), strict=True)]),
    )
    torch.testing.assert_close(
        group_advantage(R, "grpo", norm_std=False), group_advantage(R, "reinforce_baseline")
    )
    torch.testing.assert_close(
        group_advantage(R, "grpo", eps=0.5)[0],
        (R[0] - 0.5) / (R[0].std() + 0.5),
    )
    B = binary(6, 4)
    assert torch.equal(group_advantage(B), bnpo_advantage(B).advantages)
    assert torch.equal(
        group_advantage(B, "bnpo", alpha=1.5, beta=1.5), bnpo_advantage(B, alpha=1.5, beta=1.5).advantages
    )


def test_estimators_with_one_output_per_question() -> None:
    R = torch.tensor([[1.0], [0.0], [3.0]], dtype=torch.float64)
    for name in ("reinforce", "reinforce_baseline", "rloo"):
        assert torch.equal(group_advantage(R, name), R)
    torch.testing.assert_close(group_advantage(R, "grpo"), R / (1 + 1e-6))
    assert torch.equal(group_advantage(R, "remax", greedy_rewards=torch.ones(3)), R - 1)
    torch.testing.assert_close(group_advantage(R, "reinforce++_baseline"), group_advantage(R, "reinforce++"))


@pytest.mark.parametrize("name", ["reinforce++", "reinforce++_baseline"])
def test_whitening_counts_tokens(name: str) -> None:
    R = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    lengths = [[3, 1], [0, 2]]
    mask = torch.zeros(2, 2, 4, dtype=torch.bool)
    for q, g in itertools.product(range(2), range(2)):
        mask[q, g, : lengths[q][g]] = True
    x = R if name == "reinforce++" else R - R.mean(1, keepdim=True)
    repeated = [
        float(x[q, g]) for q, g in itertools.product(range(2), range(2)) for _ in range(lengths[q][g])
    ]
    want = (x - statistics.fmean(repeated)) / math.sqrt(statistics.variance(repeated) + 1e-8)
    torch.testing.assert_close(group_advantage(R, name, mask=mask), want, rtol=1e-12, atol=0)
    torch.testing.assert_close(group_advantage(R, name, mask=mask.long()), want, rtol=1e-12, atol=0)
    one_each = torch.ones(2, 2, 1)
    torch.testing.assert_close(group_advantage(R, name, mask=one_each), group_advantage(R, name))


def test_decomposition_is_the_mean_of_advantages() -> None:
    """Check 9."""
    R = binary(8, 4, seed=1)
    torch.testing.assert_close(decomposed_advantage(torch.stack([R] * 3)), group_advantage(R))
    other = binary(8, 4, seed=2)
    mean = (group_advantage(R) + group_advantage(other)) / 2
    torch.testing.assert_close(decomposed_advantage({"accuracy": R, "format": other}), mean)
    torch.testing.assert_close(decomposed_advantage(torch.stack([R, other])), mean)
    together = bnpo_advantage(R + other, max_value=2.0).advantages
    assert float((together - mean).abs().max()) > 0.1
    torch.testing.assert_close(
        decomposed_advantage({"a": R, "b": other}, "grpo", eps=0.1),
        (group_advantage(R, "grpo", eps=0.1) + group_advantage(other, "grpo", eps=0.1)) / 2,
    )


# ------------------------------------------------------------------------------------------------ second moment


def test_second_moment_equals_quadrature() -> None:
    for alpha, beta, a, b in [
        (1.0, 1.0, 2.0, 3.0),
        (1.5, 1.5, 1.0, 4.0),
        (2.0, 1.2, 4.0, 2.0),
        (0.5, 0.8, 1.0, 1.0),
    ]:

        def integrand(p: float, s: tuple[float, ...] = (alpha, beta, a, b)) -> float:
            return p * (1 - p) / stats.beta.pdf(p, s[0], s[1]) ** 2 * stats.beta.pdf(p, s[2], s[3])

        value, _ = integrate.quad(integrand, 0, 1)
        V = gradient_second_moment(alpha, beta, a, b)
        assert V.dtype == torch.float64
        assert float(V) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [(2.0, 5.0), (0.5, 0.7), (10.0, 3.0)])
def test_minimum_of_the_second_moment(a: float, b: float) -> None:
    """Check 1: no feasible point is lower, the gradient of log V vanishes, Monte Carlo agrees."""
    best = float(gradient_second_moment(1 + a / 3, 1 + b / 3, a, b))
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(0.01, 0.999, (200, 2)):
        assert float(gradient_second_moment(x * (a + 3) / 2, y * (b + 3) / 2, a, b)) >= best * (1 - 1e-12)
    closed = special.beta(1 + a / 3, 1 + b / 3) ** 3 / special.beta(a, b)
    assert best == pytest.approx(closed, rel=1e-10)
    point = torch.tensor([1 + a / 3, 1 + b / 3], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gradient_second_moment(point[0], point[1], a, b).log(), point)
    assert float(slope.abs().max()) < 1e-6

    p = rng.beta(a, b, 100_000)
    R = rng.random(100_000) < p
    samples = ((R - p) / stats.beta.pdf(p, 1 + a / 3, 1 + b / 3)) ** 2
    assert abs(samples.mean() - best) < 3 * samples.std() / 100_000**0.5


def test_grpo_second_moment_is_constant() -> None:
    a, b = (
        torch.tensor([0.3, 1.5, 8.0], dtype=torch.float64),
        torch.tensor([[0.2], [1.5]], dtype=torch.float64),
    )
    V = gradient_second_moment(1.5, 1.5, a, b)
    assert V.shape == (2, 3)
    torch.testing.assert_close(V, torch.full((2, 3), (math.pi / 8) ** 2, dtype=torch.float64))


def test_second_moment_domain_dtype_and_gradient() -> None:
    alpha = torch.tensor([-1.0, 0.0, 1.0, 2.5, 9.0], dtype=torch.float64, requires_grad=True)
    V = gradient_second_moment(alpha, 1.0, 2.0, 2.0)
    assert V.isinf().tolist() == [True, True, False, True, True]
    (slope,) = torch.autograd.grad(V[2], alpha)
    assert bool(slope.isfinite().all())
    point = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.2, 1.4, 2.0, 3.0)]
    assert torch.autograd.gradcheck(gradient_second_moment, point)
    assert gradient_second_moment(torch.tensor(1.0), 1.0, 2.0, 2.0).dtype == torch.float32
    assert (
        gradient_second_moment(torch.tensor(1.0, dtype=torch.bfloat16), 1.0, 2.0, 2.0).dtype == torch.float32
    )
    vmapped = torch.vmap(lambda x: gradient_second_moment(x, 1.0, 2.0, 2.0))(alpha.detach())
    torch.testing.assert_close(vmapped, V.detach())


# --------------------------------------------------------------------------------------------------- policy loss


def reference_loss(logp, old, A, mask, low, high, c, agg, ref=None, coef=0.0) -> float:
    N, T = logp.shape
    sums, counts = [0.0] * N, [0] * N
    for i, t in itertools.product(range(N), range(T)):
        if mask[i, t]:
            ratio = math.exp(logp[i, t] - old[i, t])
            loss = max(-A[i] * ratio, -A[i] * min(max(ratio, 1 - low), 1 + high))
            if A[i] < 0:
                loss = min(loss, -A[i] * c)
            if ref is not None:
                d = ref[i, t] - logp[i, t]
                loss += coef * (math.exp(d) - d - 1)
            sums[i] += loss
            counts[i] += 1
    if agg == "token-mean":
        return sum(sums) / sum(counts)
    if agg == "seq-mean-token-mean":
        sums = [s / max(n, 1) for s, n in zip(sums, counts, strict=True)]
    return sum(sums) / N


@pytest.mark.parametrize("agg", ["seq-mean-token-sum", "token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("coef", [0.0, 0.3])
def test_policy_loss_equals_a_loop(agg: str, coef: float) -> None:
    g = torch.Generator().manual_seed(0)
    logp, old, ref = (-3 * torch.rand(5, 6, generator=g, dtype=torch.float64) for _ in range(3))
    A = torch.randn(5, generator=g, dtype=torch.float64)
    mask = torch.rand(5, 6, generator=g) < 0.6
    mask[2] = False
    for c in (1.2, 10.0):
        ours = clipped_policy_loss(
            logp, old, A, mask, clip_low=0.1, clip_high=0.4, clip_c=c, agg=agg, ref_logp=ref, kl_coef=coef
        )
        want = reference_loss(
            logp.numpy(), old.numpy(), A.numpy(), mask.numpy(), 0.1, 0.4, c, agg, ref.numpy(), coef
        )
        assert float(ours) == pytest.approx(want, rel=1e-12)
        same = clipped_policy_loss(
            logp, old, A[:, None].expand(5, 6), mask.long(),
            clip_low=0.1, clip_high=0.4, clip_c=c, agg=agg, ref_logp=ref, kl_coef=coef,
        )  # fmt: skip
        assert torch.equal(ours, same)


def test_on_policy_gradient_and_dual_clip() -> None:
    """Check 10."""
    A = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    logp = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    clipped_policy_loss(logp, logp.detach(), A, mask).backward()
    torch.testing.assert_close(logp.grad, -A[:, None] / 3 * mask)
    far = torch.full((1, 1), 5.0, requires_grad=True)
    loss = clipped_policy_loss(far, torch.zeros(1, 1), torch.tensor([-2.0]), torch.ones(1, 1), clip_c=10.0)
    loss.backward()
    assert float(loss.detach()) == 20.0  # -A c although the ratio is e^5
    assert float(far.grad) == 0.0
    near = clipped_policy_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([-2.0]), torch.ones(1, 1))
    assert float(near) == 2.0


def test_masked_tokens_may_hold_anything() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    junk = torch.tensor([[-1.0, torch.nan], [torch.inf, -torch.inf]])
    logp = junk.clone().requires_grad_()
    A = torch.tensor([[1.0, torch.nan], [torch.nan, torch.inf]])
    loss = clipped_policy_loss(logp, junk, A, mask, ref_logp=junk, kl_coef=0.5)
    loss.backward()
    assert float(loss.detach()) == -0.5
    assert torch.equal(logp.grad, torch.tensor([[-0.5, 0.0], [0.0, 0.0]]))
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    for agg in ("seq-mean-token-sum", "token-mean", "seq-mean-token-mean"):
        assert float(clipped_policy_loss(junk, junk, A, nothing, agg=agg)) == 0.0


def test_only_the_policy_gets_gradient() -> None:
    tensors = [torch.zeros(2, 3, requires_grad=True) for _ in range(4)]
    logp, old, A, ref = tensors
    clipped_policy_loss(logp, old, A + 1, torch.ones(2, 3), ref_logp=ref, kl_coef=1.0).backward()
    assert logp.grad is not None
    assert old.grad is None
    assert A.grad is None
    assert ref.grad is None
    half = clipped_policy_loss(logp.detach().bfloat16(), old.bfloat16(), torch.ones(2), torch.ones(2, 3))
    assert half.dtype == torch.float32


# ------------------------------------------------------------------------------------- module, vmap, compile


def test_module() -> None:
    normalise = BNPO(alpha=1.5, beta=1.5, max_value=2.0)
    assert normalise.last is None
    assert normalise.state_dict() == {}
    R = binary(6, 4) * 2
    A = normalise(R)
    expected = bnpo_advantage(R, alpha=1.5, beta=1.5, max_value=2.0)
    assert torch.equal(A, expected.advantages)
    assert all(torch.equal(x, y) for x, y in zip(normalise.last, expected, strict=True))
    assert "alpha=1.5" in repr(normalise)


def test_vmap_equals_loop_and_leaves_no_trace() -> None:
    batch = torch.stack([binary(6, 4, seed) for seed in range(3)])
    result = torch.vmap(bnpo_advantage)(batch)
    for k in range(3):
        for ours, alone in zip(result, bnpo_advantage(batch[k]), strict=True):
            torch.testing.assert_close(ours[k], alone)
    normalise = BNPO()
    torch.testing.assert_close(torch.vmap(normalise)(batch), result.advantages)
    assert normalise.last is None
    for name in ESTIMATORS:
        torch.testing.assert_close(
            torch.vmap(lambda R, n=name: group_advantage(R, n))(batch)[1], group_advantage(batch[1], name)
        )


def test_compiles_without_graph_break() -> None:
    R = binary(6, 4, dtype=torch.float32)
    normalise = BNPO()
    compiled = torch.compile(normalise, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(R), bnpo_advantage(R).advantages)
    logp = -torch.rand(3, 4)
    arguments = (logp, logp - 0.1, torch.ones(3), torch.ones(3, 4))
    loss = torch.compile(clipped_policy_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss(*arguments), clipped_policy_loss(*arguments))


# ------------------------------------------------------------------------------------------------------- errors

R22 = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
L22 = torch.zeros(2, 2)


def loss_with(**options: object) -> torch.Tensor:
    arguments = {"logp": L22, "old_logp": L22, "advantages": torch.ones(2), "mask": torch.ones(2, 2)}
    return clipped_policy_loss(**(arguments | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bnpo_advantage(R22, min_value=1.0, max_value=1.0), "max_value"),
        (lambda: bnpo_advantage(R22, alpha=1.0), "alpha and beta"),
        (lambda: bnpo_advantage(R22, alpha=0.0, beta=1.0), "alpha"),
        (lambda: bnpo_advantage(R22, alpha=1.0, beta=-1.0), "beta"),
        (lambda: bnpo_advantage(R22, max_weight=0.0), "max_weight"),
        (lambda: bnpo_advantage(torch.ones(3)), "rewards"),
        (lambda: bnpo_advantage(torch.ones(3, 0)), "rewards"),
        (lambda: bnpo_advantage(torch.ones(0, 3)), "rewards"),
        (lambda: bnpo_advantage(torch.tensor([[1.0, torch.nan]])), "rewards"),
        (lambda: bnpo_advantage(R22 * 2), "max_value"),
        (lambda: bnpo_advantage(R22 - 1), "min_value"),
        (lambda: BNPO(min_value=2.0), "max_value"),
        (lambda: BNPO(beta=1.0), "alpha and beta"),
        (lambda: BNPO(alpha=-1.0, beta=1.0), "alpha"),
        (lambda: beta_moments(R22), "p must have"),
        (lambda: beta_moments(torch.tensor([0.5, 1.5])), "p must lie"),
        (lambda: beta_moments(torch.tensor([0.5, torch.nan])), "p must lie"),
        (lambda: beta_moments(torch.ones(2), eps=-1.0), "eps"),
        (lambda: bnpo_parameters(torch.ones(0)), "p must have"),
        (lambda: bnpo_advantage_from_index(torch.ones(3), torch.ones(2, dtype=torch.long)), "index"),
        (lambda: bnpo_advantage_from_index(torch.ones(3), torch.ones(3)), "index"),
        (lambda: bnpo_advantage_from_index(torch.ones(0), torch.ones(0, dtype=torch.long)), "scores"),
        (
            lambda: bnpo_advantage_from_index(torch.full((2,), 3.0), torch.zeros(2, dtype=torch.long)),
            "max_value",
        ),
        (lambda: group_advantage(R22, "grop"), "grpo"),
        (lambda: group_advantage(R22, "remax"), "greedy_rewards"),
        (lambda: group_advantage(R22, "remax", greedy_rewards=torch.ones(3)), "greedy_rewards"),
        (lambda: group_advantage(R22, "grpo", eps=-1.0), "eps"),
        (lambda: group_advantage(torch.ones(2), "grpo"), "rewards"),
        (lambda: group_advantage(torch.ones(1, 1), "reinforce++"), "rewards"),
        (lambda: group_advantage(R22, "reinforce++", mask=torch.ones(2, 2)), "mask"),
        (lambda: group_advantage(R22, "reinforce++", mask=torch.eye(2)[:, :, None] * 0), "mask"),
        (lambda: decomposed_advantage(R22), "rewards"),
        (lambda: decomposed_advantage({}), "rewards"),
        (lambda: decomposed_advantage({"a": R22, "b": torch.ones(2, 3)}), "rewards"),
        (lambda: gradient_second_moment(1.0, 1.0, 0.0, 1.0), "a must be"),
        (lambda: gradient_second_moment(1.0, 1.0, 1.0, torch.tensor([1.0, -1.0])), "b must be"),
        (lambda: loss_with(clip_c=1.0), "clip_c"),
        (lambda: loss_with(clip_low=1.5), "clip_low"),
        (lambda: loss_with(clip_high=-0.1), "clip_high"),
        (lambda: loss_with(agg="mean"), "agg"),
        (lambda: loss_with(kl_coef=0.1), "ref_logp"),
        (lambda: loss_with(kl_coef=-0.1, ref_logp=L22), "kl_coef"),
        (lambda: loss_with(logp=torch.zeros(2)), "logp"),
        (lambda: loss_with(old_logp=torch.zeros(2, 3)), "old_logp"),
        (lambda: loss_with(mask=torch.zeros(2)), "mask"),
        (lambda: loss_with(ref_logp=torch.zeros(2, 1)), "ref_logp"),
        (lambda: loss_with(advantages=torch.zeros(3)), "advantages"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bnpo_options_belong_to_bnpo() -> None:
    with pytest.raises(TypeError, match="max_value"):
        group_advantage(R22, "grpo", max_value=2.0)
    with pytest.raises(TypeError):
        bnpo_advantage(R22, 0.0)


def test_public_names() -> None:
    for name in bnpo.__all__:
        assert name in weighting.__all__
        assert getattr(weighting, name) is getattr(bnpo, name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_entry_must_be_in_range_not_only_the_mean(dtype: torch.dtype) -> None:
    R = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]], dtype=dtype)
    assert (R.mean(1) >= 0).all()
    for build in (BNPO(), bnpo_advantage, group_advantage):
        with pytest.raises(
            ValueError, match=r"rewards must lie between min_value = 0 and max_value = 1.*-1 to 1"
        ):
            build(R)
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="scores must lie between min_value"):
        bnpo_advantage_from_index(R.flatten(), index)
    assert BNPO(min_value=-1.0)(R).isfinite().all()


def test_the_ends_of_the_range_pass_as_their_dtype_rounds_them() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        R = torch.tensor([[0.3, 1000.3, 0.3], [1000.3, 1000.3, 0.3]], dtype=dtype)
        assert bnpo_advantage(R, min_value=0.3, max_value=1000.3).advantages.isfinite().all()
