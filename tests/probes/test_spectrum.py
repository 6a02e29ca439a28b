"""The spectral probes against hand-made matrices, NumPy, and the updates of real optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normviz.optim import SWAN, Conda, MultiNormGD, Muon, NorMuon, SinkGD, newton_schulz, sr_sinkhorn
from normviz.probes import (
    UpdateSpectrum,
    col_norm_cv,
    condition_number,
    cosine,
    effective_rank,
    optimizer_state_bytes,
    rms,
    row_norm_cv,
    singular_values,
    stable_rank,
    update_spectrum,
)

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1)]
FLOATS = [
    "condition_number",
    "stable_rank",
    "effective_rank",
    "row_norm_cv",
    "col_norm_cv",
    "rms",
    "cosine_to_gradient",
]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_reference(U: np.ndarray, G: np.ndarray | None) -> dict[str, Any]:
    """Every definition written out, entry by entry; the singular values from the eigenvalues of the Gram matrix."""
    m, n = U.shape
    gram = U @ U.T if m <= n else U.T @ U
    s = np.sqrt(np.maximum(np.sort(np.linalg.eigvalsh(gram))[::-1], 0))
    energy = [x * x for x in s]
    p = [e / sum(energy) for e in energy]
    rows = [math.sqrt(sum(U[i, j] ** 2 for j in range(n))) for i in range(m)]
    columns = [math.sqrt(sum(U[i, j] ** 2 for i in range(m))) for j in range(n)]

    def spread(norms: list[float]) -> float:
        mean = sum(norms) / len(norms)
        return math.sqrt(sum((x - mean) ** 2 for x in norms) / len(norms)) / mean

    total = sum(U[i, j] ** 2 for i in range(m) for j in range(n))
    return {
        "singular_values": s / math.sqrt(sum(energy) / len(s)),
        "condition_number": s[0] / s[-1],
        "stable_rank": total / s[0] ** 2,
        "effective_rank": math.exp(-sum(x * math.log(x) for x in p)),
        "row_norm_cv": spread(rows),
        "col_norm_cv": spread(columns),
        "rms": math.sqrt(total / (m * n)),
        "cosine_to_gradient": 0.0
        if G is None
        else (U * G).sum() / math.sqrt(total) / math.sqrt((G**2).sum()),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_gradient", [True, False])
def test_every_measure_equals_its_definition(shape: tuple[int, int], with_gradient: bool) -> None:
    U = gaussian(*shape)
    G = gaussian(*shape, seed=1) if with_gradient else None
    got: dict[str, Any] = {**update_spectrum(U, G)}
    expected = loop_reference(U.numpy(), None if G is None else G.numpy())
    assert list(got) == ["singular_values", *FLOATS]
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_types() -> None:
    got = update_spectrum(gaussian(3, 5).to(torch.bfloat16).requires_grad_())
    assert isinstance(got["singular_values"], np.ndarray)
    assert got["singular_values"].dtype == np.float64
    assert got["singular_values"].shape == (3,)
    assert all(type(value) is float for name, value in got.items() if name != "singular_values")


def test_arrays_are_taken_too() -> None:
    U, G = gaussian(3, 5), gaussian(3, 5, seed=1)
    assert update_spectrum(U.numpy(), G.numpy())["stable_rank"] == update_spectrum(U, G)["stable_rank"]


def test_diagonal_by_hand() -> None:
    got = update_spectrum(torch.diag(torch.tensor([4.0, 2.0])), torch.eye(2))
    np.testing.assert_allclose(got["singular_values"], np.array([4, 2]) / math.sqrt(10))
    assert got["condition_number"] == pytest.approx(2)
    assert got["stable_rank"] == pytest.approx(20 / 16)
    assert got["effective_rank"] == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))
    assert got["row_norm_cv"] == pytest.approx(1 / 3)
    assert got["col_norm_cv"] == pytest.approx(1 / 3)
    assert got["rms"] == pytest.approx(math.sqrt(5))
    assert got["cosine_to_gradient"] == pytest.approx(6 / math.sqrt(20) / math.sqrt(2))


def test_zero_update() -> None:
    got = update_spectrum(torch.zeros(3, 5), gaussian(3, 5))
    assert got["singular_values"].tolist() == [0.0] * 3
    assert math.isnan(got["condition_number"])
    assert [got[name] for name in FLOATS[1:]] == [0.0] * 6  # type: ignore[literal-required]
    assert update_spectrum(gaussian(3, 5), torch.zeros(3, 5))["cosine_to_gradient"] == 0.0


def test_rank_deficient_condition_counts_only_what_is_there() -> None:
    a, b = torch.linalg.qr(gaussian(6, 2))[0], torch.linalg.qr(gaussian(8, 2, seed=1))[0]
    got = update_spectrum(a @ torch.diag(torch.tensor([3.0, 1.5], dtype=torch.float64)) @ b.mT)
    assert got["condition_number"] == pytest.approx(2)
    assert got["stable_rank"] == pytest.approx(1.25)
    assert (got["singular_values"][2:] < 1e-12).all()


def test_tiny_and_huge_updates_are_measured_alike() -> None:
    U = gaussian(4, 6)
    expected = update_spectrum(U)
    for factor in (1e-120, 1e120):
        got = update_spectrum(factor * U)
        for name in ("condition_number", "stable_rank", "effective_rank", "row_norm_cv", "col_norm_cv"):
            assert got[name] == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged_update_gives_nan_instead_of_raising(bad: float) -> None:
    U = gaussian(3, 4)
    U[1, 2] = bad
    got = update_spectrum(U)
    assert np.isnan(got["singular_values"]).all()
    assert all(math.isnan(got[name]) for name in FLOATS[:3])  # type: ignore[literal-required]


def test_measures_batch_over_leading_axes() -> None:
    X, Y = gaussian(2, 3, 4, 6), gaussian(2, 3, 4, 6, seed=1)
    X[0, 1] = 0
    X[1, 2, 0, 0] = math.nan
    s = singular_values(X)
    assert s.shape == (2, 3, 4)
    batched = {
        "condition_number": condition_number(s),
        "stable_rank": stable_rank(s),
        "effective_rank": effective_rank(s),
        "row_norm_cv": row_norm_cv(X),
        "col_norm_cv": col_norm_cv(X),
        "rms": rms(X),
        "cosine_to_gradient": cosine(X, Y),
    }
    for i in range(2):
        for j in range(3):
            one = update_spectrum(X[i, j], Y[i, j])
            for name, values in batched.items():
                np.testing.assert_allclose(float(values[i, j]), one[name], rtol=1e-9)  # type: ignore[literal-required]


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 7), n=st.integers(1, 7), seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3))
def test_properties(m: int, n: int, seed: int, factor: float) -> None:
    U = gaussian(m, n, seed=seed)
    got, scaled, turned = update_spectrum(U), update_spectrum(factor * U), update_spectrum(U.mT)
    r = min(m, n)
    assert 1 - 1e-9 <= got["stable_rank"] <= got["effective_rank"] * (1 + 1e-9) <= r * (1 + 1e-8)
    assert got["condition_number"] >= 1
    assert scaled["rms"] == pytest.approx(factor * got["rms"], rel=1e-9)
    for name in ("stable_rank", "effective_rank", "row_norm_cv", "col_norm_cv"):
        assert scaled[name] == pytest.approx(got[name], rel=1e-6, abs=1e-9)
    assert turned["row_norm_cv"] == pytest.approx(got["col_norm_cv"], abs=1e-12)
    Q = torch.linalg.qr(gaussian(m, m, seed=seed + 1))[0]
    np.testing.assert_allclose(update_spectrum(Q @ U)["singular_values"], got["singular_values"], atol=1e-9)


@pytest.mark.parametrize(
    ("U", "G", "word"),
    [
        (torch.ones(3), None, "U"),
        (torch.ones(2, 3, 4), None, "U"),
        (torch.ones(0, 4), None, "U"),
        (torch.ones(2, 2, dtype=torch.complex64), None, "U"),
        (torch.ones(2, 3), torch.ones(3, 2), "G"),
    ],
)
def test_refuses(U: Tensor, G: Tensor | None, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        update_spectrum(U, G)


def test_the_picture_of_normuon_on_tall_and_wide_matrices() -> None:
    """Rows of wide orthogonal matrices are equal already; tall ones are where NorMuon acts."""
    cv = {}
    for shape in ((64, 256), (256, 64)):
        G = gaussian(shape[0], 1, seed=3).exp() * gaussian(*shape)
        O = newton_schulz(G)
        cv[shape] = update_spectrum(O)["row_norm_cv"]
        assert update_spectrum(O)["stable_rank"] > 4 * update_spectrum(G)["stable_rank"]
        assert update_spectrum(O)["condition_number"] < 2 < update_spectrum(G)["condition_number"]
    assert cv[64, 256] < 0.3 < cv[256, 64]


# ------------------------------------------------------------------------------------------------- recorder

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def record(make: Make, direction: Callable[[Tensor], Tensor], **options: Any) -> None:
    """Compare the recorded direction with the formula for it, at the second of three steps."""
    p = nn.Parameter(gaussian(5, 8))
    optimizer = make([p])
    probe = UpdateSpectrum(optimizer, {"W": p}, **options)
    for step in range(3):
        p.grad = gaussian(5, 8, seed=step + 1)
        if step == 1:
            probe.arm()
        optimizer.step()
    found = probe.read()["W"]
    torch.testing.assert_close(found.update, direction(p), rtol=0, atol=1e-10)
    assert found.gradient is not None
    torch.testing.assert_close(found.gradient, gaussian(5, 8, seed=2), rtol=0, atol=0)
    assert found.spectrum()["rms"] == pytest.approx(float(direction(p).square().mean().sqrt()), rel=1e-9)


def start() -> Tensor:
    return gaussian(5, 8)


def second_gradient(_: Tensor) -> Tensor:
    return gaussian(5, 8, seed=2)


def test_direction_of_sgd_includes_its_l2_decay() -> None:
    record(lambda p: torch.optim.SGD(p, lr=0.1), second_gradient)

    def with_decay(_: Tensor) -> Tensor:
        after_one = start() - 0.1 * (gaussian(5, 8, seed=1) + 0.5 * start())
        return second_gradient(_) + 0.5 * after_one

    record(lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5), with_decay)


def adam_direction(_: Tensor) -> Tensor:
    g1, g2 = gaussian(5, 8, seed=1), gaussian(5, 8, seed=2)
    m = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9**2)
    v = (0.999 * 0.001 * g1**2 + 0.001 * g2**2) / (1 - 0.999**2)
    return m / (v.sqrt() + 1e-8)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_direction_of_adamw_excludes_its_decay(weight_decay: float) -> None:
    record(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=weight_decay), adam_direction)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_direction_of_sinkgd_excludes_alpha_and_decay(weight_decay: float) -> None:
    record(lambda p: SinkGD(p, lr=0.1, weight_decay=weight_decay), lambda _: sr_sinkhorn(second_gradient(_)))
    record(
        lambda p: MultiNormGD(p, lr=0.1, weight_decay=weight_decay, iters=5),
        lambda _: sr_sinkhorn(second_gradient(_)),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("ours", [True, False])
def test_direction_of_muon_excludes_its_decay(weight_decay: float, ours: bool) -> None:
    def direction(_: Tensor) -> Tensor:
        M = 0.95 * 0.05 * gaussian(5, 8, seed=1) + 0.05 * gaussian(5, 8, seed=2)
        u = 0.05 * gaussian(5, 8, seed=2) + 0.95 * M
        return newton_schulz(u, eps_mode="clamp", dtype=None if ours else torch.bfloat16)

    if ours:
        record(lambda p: Muon(p, lr=0.1, weight_decay=weight_decay), direction)
    else:
        p = nn.Parameter(start())
        optimizer: torch.optim.Optimizer = torch.optim.Muon([p], lr=0.1, weight_decay=weight_decay)
        probe = UpdateSpectrum(optimizer, {"W": p})
        for step in range(2):
            p.grad = gaussian(5, 8, seed=step + 1)
            probe.arm()
            optimizer.step()
        torch.testing.assert_close(probe.read()["W"].update, direction(p), rtol=0, atol=0.05)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_direction_of_conda_excludes_its_decay_after_the_step(weight_decay: float) -> None:
    directions = []
    for wd in (weight_decay, 0.0):
        p = nn.Parameter(start())
        optimizer = Conda([{"params": [p], "update_proj_gap": 10}], lr=0.1, weight_decay=wd)
        probe = UpdateSpectrum(optimizer, {"W": p})
        p.grad = gaussian(5, 8, seed=1)
        probe.arm()
        optimizer.step()
        directions.append(probe.read()["W"].update)
    torch.testing.assert_close(*directions, rtol=0, atol=1e-10)
    # First step: RMS is Conda's scale.
    assert update_spectrum(directions[0])["rms"] == pytest.approx(0.25, rel=1e-4)


def test_expected_sizes_of_the_papers() -> None:
    for make, size in (
        (lambda p: NorMuon(p, lr=0.1, scale="rms"), 0.2),
        (lambda p: SWAN(p, lr=0.1), 1.0),
        (lambda p: SinkGD(p, lr=0.1), 1.0),
    ):
        p = nn.Parameter(start())
        p.grad = gaussian(5, 8, seed=1)
        optimizer = make([p])
        probe = UpdateSpectrum(optimizer, {"W": p})
        probe.arm()
        optimizer.step()
        assert probe.read()["W"].spectrum()["rms"] == pytest.approx(size, rel=1e-6)


def test_decay_can_be_said() -> None:
    for order in ("before", "after", "none"):
        p = nn.Parameter(torch.full((2, 2), 2.0, dtype=torch.float64))
        p.grad = torch.ones_like(p)
        optimizer = torch.optim.AdamW([p], lr=0.1, weight_decay=0.5, eps=0.0)
        probe = UpdateSpectrum(optimizer, {"W": p}, decay=order)
        probe.arm()
        optimizer.step()  # 2 -> 1.9 - 0.1 = 1.8
        expected = {"before": 1.0, "after": (2 - 1.8 / 0.95) / 0.1, "none": 2.0}[order]
        torch.testing.assert_close(
            probe.read()["W"].update, torch.full((2, 2), expected, dtype=torch.float64)
        )


def test_fallback_parameters_and_missing_gradients() -> None:
    """Where an optimizer skips decay, none is taken out of the direction."""
    matrix, other = nn.Parameter(gaussian(4, 4)), nn.Parameter(gaussian(4, 4, seed=1))
    optimizer = SinkGD(
        [{"params": [matrix]}, {"params": [other], "use_sinkgd": False}], lr=0.1, weight_decay=0.5
    )
    probe = UpdateSpectrum(optimizer, [("matrix", matrix), ("other", other)])
    other.grad = torch.ones_like(other)
    probe.arm()
    optimizer.step()
    records = probe.read()
    assert records["matrix"].gradient is None
    assert not records["matrix"].update.any()
    assert records["matrix"].spectrum()["cosine_to_gradient"] == 0.0
    torch.testing.assert_close(records["other"].update, torch.ones_like(other.detach()), rtol=0, atol=1e-6)


def test_only_armed_steps_are_recorded_and_closing_removes_the_hooks() -> None:
    p = nn.Parameter(gaussian(3, 4))
    optimizer = torch.optim.SGD([p], lr=1.0)
    probe = UpdateSpectrum(optimizer, {"W": p})
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert probe.read() == {}
    probe.arm()
    optimizer.step()
    first = probe.read()["W"]
    p.grad = -torch.ones_like(p)
    optimizer.step()
    assert probe.read()["W"] is first
    torch.testing.assert_close(first.update, torch.ones_like(p.detach()))
    probe.close()
    probe.arm()
    optimizer.step()
    assert probe.read()["W"] is first


def test_closure_zero_lr_scheduler_and_kernels() -> None:
    conv = nn.Conv2d(2, 3, 3).double()
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    probe = UpdateSpectrum(optimizer, {"conv": conv.weight})

    def closure() -> float:
        optimizer.zero_grad()
        loss = conv(gaussian(1, 2, 5, 5)).square().sum()
        loss.backward()
        return float(loss.detach())

    probe.arm()
    optimizer.step(closure)
    found = probe.read()["conv"]
    assert found.update.shape == (3, 18)
    assert found.spectrum()["cosine_to_gradient"] == pytest.approx(1)
    scheduler.step()
    probe.arm()
    optimizer.step(closure)
    assert not probe.read()["conv"].update.any()


def test_recorder_refuses() -> None:
    p, vector, stranger = (
        nn.Parameter(torch.ones(2, 2)),
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(2, 2)),
    )
    optimizer = torch.optim.SGD([p, vector], lr=0.1)
    with pytest.raises(ValueError, match="matrices"):
        UpdateSpectrum(optimizer, {"b": vector})
    with pytest.raises(ValueError, match="none of its groups"):
        UpdateSpectrum(optimizer, {"x": stranger})
    with pytest.raises(ValueError, match="decay"):
        UpdateSpectrum(optimizer, {"W": p}, decay="late")


def test_state_bytes() -> None:
    def after_one_step(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    def params() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(5))]

    matrix, vector = 24 * 4, 5 * 4
    adam = after_one_step(torch.optim.AdamW(params()))
    assert (
        optimizer_state_bytes(adam) == 2 * (matrix + vector) + 2 * 4
    )  # two moments, two float32 step counters
    weights = params()
    sink = after_one_step(SinkGD(weights))
    assert optimizer_state_bytes(sink) == 2 * vector + 4
    assert optimizer_state_bytes(sink, [weights[0]]) == 0
    normuon = after_one_step(NorMuon(weights))
    assert optimizer_state_bytes(normuon, [weights[0]]) == matrix + 6 * 4  # m numbers more than Muon
    assert optimizer_state_bytes(torch.optim.SGD(params(), lr=0.1)) == 0


def test_state_bytes_count_what_views_keep_alive() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    big = torch.zeros(100)
    optimizer.state[p] = {"basis": [big[:2], big[2:4]], "inner": {"x": torch.zeros(3)}, "step": 7}
    assert optimizer_state_bytes(optimizer) == 400 + 12
