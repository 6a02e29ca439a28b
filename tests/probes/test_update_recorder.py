"""The recorded updates of real optimizers against the formulas of their directions, and the rounding they carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.optim import (
    SWAN,
    Conda,
    GaLoreAdamW,
    MultiNormGD,
    Muon,
    NorMuon,
    SinkGD,
    newton_schulz,
    sr_sinkhorn,
)
from normviz.probes import UpdateRecord, UpdateSpectrum, numerical_rank, update_spectrum


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


# ------------------------------------------------------------------------------------------------ rounding


def product_in_order(A: Tensor, B: Tensor, order: list[int], width: int) -> Tensor:
    """A B in float32, the inner axis summed in ``width`` partial sums, as a vector unit of that width does it."""
    lanes = [torch.zeros(A.shape[0], B.shape[1]) for _ in range(width)]
    for i, k in enumerate(order):
        lanes[i % width] = lanes[i % width] + torch.outer(A[:, k], B[k])
    return torch.stack(lanes).sum(0)


@pytest.mark.parametrize("shape", [(48, 48), (64, 32), (16, 96)])
@pytest.mark.parametrize("start_size", [0.0, 0.3, 30.0])
@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_a_low_rank_update_keeps_its_rank_whatever_the_order_of_summation(
    shape: tuple[int, int], start_size: float, rate: float
) -> None:
    """The largest singular value that is rounding stays below half the tolerance, derived here by NumPy."""
    m, n = shape
    rank = 8
    generator = torch.Generator().manual_seed(m + n)
    for width in (1, 4, 8, 16):
        A = torch.linalg.qr(torch.randn(m, rank, generator=generator))[0]
        B = torch.linalg.qr(torch.randn(n, rank, generator=generator))[0].mT
        U = product_in_order(A, B, torch.randperm(rank, generator=generator).tolist(), width)
        before = start_size * torch.randn(m, n, generator=generator)
        record = UpdateRecord(before, before - rate * U, None, rate, 1.0, "before")
        raw = np.linalg.svd(record.update.numpy(), compute_uv=False)
        largest = max(float(before.abs().max()), float(record.after.abs().max()))
        unit = np.finfo(np.float32).eps
        tolerance = unit * max(m, n) * raw[0] + unit * largest / rate * (math.sqrt(m) + math.sqrt(n))
        assert raw[rank] < tolerance / 2
        if tolerance < 0.5:  # else the weights' rounding hides the update itself, whose singular values are 1
            assert numerical_rank(record.singular_values()) == rank
            np.testing.assert_allclose(record.singular_values()[:rank], raw[:rank], rtol=1e-9)
            assert record.spectrum()["condition_number"] == pytest.approx(raw[0] / raw[rank - 1])


def test_what_the_rounding_hides_counts_as_zero() -> None:
    """Weights near 1 in float32 and a rate of 1e-6: entries of the update are known to about 0.1 only."""
    U = torch.diag(torch.tensor([1e4, 1e-3]))
    before = torch.ones(2, 2)
    record = UpdateRecord(before, before - 1e-6 * U, None, 1e-6, 1.0, "before")
    assert numerical_rank(record.singular_values()) == 1
    in_double = UpdateRecord(before.double(), before.double() - 1e-6 * U.double(), None, 1e-6, 1.0, "before")
    assert numerical_rank(in_double.singular_values()) == 2
    assert in_double.spectrum()["condition_number"] == pytest.approx(1e7, rel=1e-4)


def test_half_types_are_known_to_their_own_rounding() -> None:
    before = torch.full((4, 4), 1.0, dtype=torch.bfloat16)
    U = torch.outer(torch.arange(1.0, 5.0), torch.arange(4.0, 0.0, -1.0))
    record = UpdateRecord(before, (before.float() - 0.01 * U).bfloat16(), None, 0.01, 1.0, "before")
    assert numerical_rank(record.singular_values()) == 1


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_galores_update_has_at_most_its_rank(started: bool, weight_decay: float) -> None:
    for seed in range(5):
        p = nn.Parameter(gaussian(48, 48, seed=seed).float() * float(started))
        optimizer = GaLoreAdamW([{"params": [p], "rank": 8}], lr=0.03, weight_decay=weight_decay)
        probe = UpdateSpectrum(optimizer, {"W": p})
        for step in range(3):
            p.grad = gaussian(48, 48, seed=100 * seed + step).float()
            probe.arm()
            optimizer.step()
            s = probe.read()["W"].singular_values()
            assert numerical_rank(s) == 8
            assert not s[8:].any()


def test_no_rate_and_a_diverged_update() -> None:
    W = torch.ones(3, 2)
    assert UpdateRecord(W, W, None, 0.0, 1.0, "before").singular_values().tolist() == [0.0, 0.0]
    assert UpdateRecord(W, W * math.nan, None, 0.1, 1.0, "before").singular_values().isnan().all()
