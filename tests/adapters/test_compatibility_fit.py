"""Training of the maps: a NumPy replay with Adam, limits of the threshold, records, seeds, refusals."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.adapters import (
    AffineAdapter,
    OrthogonalAdapter,
    fit_adapters,
    orthogonality_distance,
    procrustes_orthogonal,
)


def task(n: int = 90, d_old: int = 5, d_new: int = 5, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Classes in both spaces: the old one is a stretched, turned and noisy view of the new one."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 6
    h_new = 3 * torch.randn(6, d_new, generator=g, dtype=dtype)[labels]
    h_new = h_new + torch.randn(n, d_new, generator=g, dtype=dtype)
    stretch = torch.randn(d_old, d_new, generator=g, dtype=dtype)
    h_old = h_new @ stretch.T + torch.randn(n, d_old, generator=g, dtype=dtype)
    return h_old, h_new, labels


def quick(**options):
    return fit_adapters(*task(), **{"epochs": 30, "batch_size": 30, "lr": 1e-2, **options})


def numpy_affine_fit(
    h_old: np.ndarray, h_new: np.ndarray, w_f: np.ndarray, steps: int, lr: float, decay: float
) -> tuple[np.ndarray, ...]:
    """Whole-batch Adam on mean squares and the hinge at 1, with every gradient written out."""
    h_old = h_old / np.linalg.norm(h_old, axis=1).mean()
    h_new = h_new / np.linalg.norm(h_new, axis=1).mean()
    p, _, rt = np.linalg.svd(h_old.T @ h_new)
    params = [p @ rt, np.zeros(h_old.shape[1]), w_f.copy(), np.zeros(h_old.shape[1])]
    first, second = ([np.zeros_like(x) for x in params] for _ in range(2))
    for t in range(1, steps + 1):
        w_b, b_b, w_f, b_f = params
        z, u = h_new @ w_b.T + b_b, h_old @ w_f.T + b_f
        gram = w_b.T @ w_b - np.eye(len(w_b))
        delta = np.linalg.norm(gram)
        dz = 2 * ((z - h_old) + (z - u)) / z.size
        du = 2 * (u - z) / z.size
        dw_b = dz.T @ h_new + (2 * w_b @ gram / delta if delta > 1 else 0) + decay * w_b
        for i, gradient in enumerate((dw_b, dz.sum(0), du.T @ h_old, du.sum(0))):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            scale = np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8
            params[i] = params[i] - lr * first[i] / (1 - 0.9**t) / scale
    return tuple(params)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_equals_a_numpy_replay(decay: float) -> None:
    h_old, h_new, labels = task()
    starts: list[Tensor] = []

    def keep_start(_, __, forward_map) -> None:
        starts.append(forward_map.weight.detach().clone())

    options = {"w_contrastive": 0.0, "mode": "hinge", "batch_size": 90, "lr": 0.05}
    # A start is seen from a fit whose first step is too small to move it.
    fit_adapters(h_old, h_new, labels, epochs=1, **{**options, "lr": 1e-300}, callback=keep_start)
    b, f, _ = fit_adapters(h_old, h_new, labels, epochs=120, **options, weight_decay=decay)
    expected = numpy_affine_fit(h_old.numpy(), h_new.numpy(), starts[0].numpy(), 120, 0.05, decay)
    for ours, theirs in zip((b.weight, b.bias, f.weight, f.bias), expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-8)
    assert float(orthogonality_distance(b.weight.detach())) > 0.5, "it has left the orthogonal matrices"


@pytest.mark.parametrize("mode", ["gated", "hinge", "softplus", "soft"])
def test_check_5_no_threshold_is_the_affine_map_bit_for_bit(mode: str) -> None:
    free, affine = quick(lam=math.inf, mode=mode), quick(backward="affine", mode=mode)
    for part in (0, 1):
        for a, b in zip(free[part].parameters(), affine[part].parameters(), strict=True):
            assert torch.equal(a, b)
    assert [r["total"] for r in free[2]] == [r["total"] for r in affine[2]]


def test_check_5_a_small_threshold_with_a_large_weight_is_nearly_orthogonal() -> None:
    for lam in (0.0, 1e-3):
        _, _, history = quick(lam=lam, w_lambda=100.0, lr=1e-3, epochs=100)
        assert history[-1]["delta"] < 0.05


def test_check_11_only_the_maps_are_trained() -> None:
    h_old, h_new, labels = task()
    h_old.requires_grad_()
    h_new.requires_grad_()
    kept = h_old.detach().clone(), h_new.detach().clone()
    b, f, _ = fit_adapters(h_old, h_new, labels, epochs=2)
    assert h_old.grad is None
    assert h_new.grad is None
    assert torch.equal(h_old, kept[0])
    assert torch.equal(h_new, kept[1])
    assert not torch.equal(f.weight, fit_adapters(h_old, h_new, labels, epochs=1)[1].weight)
    assert isinstance(b, AffineAdapter)
    assert not b.training
    assert not f.training


def test_check_12_distance_grows_with_the_threshold() -> None:
    deltas = [quick(lam=lam, epochs=60)[2][-1]["delta"] for lam in (0.1, 0.5, 1.0, 2.0, 4.0, math.inf)]
    assert all(b >= 0.95 * a for a, b in itertools.pairwise(deltas)), deltas
    assert deltas[-1] > 2 * deltas[0]


@pytest.mark.parametrize("parametrization", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("init", ["procrustes", "identity"])
def test_strict_maps_stay_orthogonal(init: str, parametrization: str) -> None:
    b, _, history = fit_adapters(
        *task(dtype=torch.float32),
        backward="strict",
        init=init,
        parametrization=parametrization,
        epochs=5,
        batch_size=30,
        every=1,
    )
    assert isinstance(b, OrthogonalAdapter)
    assert b.weight.dtype == torch.float32
    assert max(record["delta"] for record in history) < 1e-6
    assert {record["lambda"] for record in history} == {0.0}


def test_scales_are_kept_in_the_maps() -> None:
    h_old, h_new, labels = task()
    b, f, _ = fit_adapters(h_old, h_new, labels, epochs=1)
    assert float(b.in_scale) == pytest.approx(np.linalg.norm(h_new.numpy(), axis=1).mean())
    assert float(f.in_scale) == pytest.approx(np.linalg.norm(h_old.numpy(), axis=1).mean())
    b, f, _ = fit_adapters(h_old, h_new, labels, epochs=1, normalize=False)
    assert (float(b.in_scale), float(f.in_scale)) == (1.0, 1.0)
    zero = fit_adapters(h_old * 0, h_new, labels, epochs=1, lr=1e-3)
    assert all(bool(torch.isfinite(p).all()) for part in zero[:2] for p in part.parameters())


def test_starts() -> None:
    h_old, h_new, labels = task(d_old=3)
    options = {"epochs": 1, "lr": 1e-300}
    b, f, _ = fit_adapters(h_old, h_new, labels, **options)
    torch.testing.assert_close(b.weight.detach(), procrustes_orthogonal(h_new, h_old), rtol=0, atol=1e-12)
    assert (b.weight.shape, f.weight.shape) == ((3, 5), (3, 3))
    b, f, _ = fit_adapters(h_old, h_new, labels, init="identity", **options)
    torch.testing.assert_close(b.weight.detach(), torch.eye(3, 5, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.warns(UserWarning, match="smaller side"):
        b, _, _ = fit_adapters(h_old, h_new, labels, backward="strict", **options)
    torch.testing.assert_close(b.weight.detach(), procrustes_orthogonal(h_new, h_old), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d_old", "d_new"), [(5, 5), (3, 5), (5, 3)])
@pytest.mark.parametrize("backward", ["strict", "lambda", "affine"])
def test_losses_fall_for_all_widths(backward: str, d_old: int, d_new: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _, _, history = fit_adapters(
            *task(d_old=d_old, d_new=d_new), backward=backward, epochs=40, lr=1e-2, batch_size=90, every=1
        )
    assert history[-1]["forward"] < 0.5 * history[0]["forward"]
    assert history[-1]["total"] < history[0]["total"]


def test_records() -> None:
    seen: list[dict] = []

    def callback(record, b, f) -> None:
        seen.append(record)
        assert record["delta"] == pytest.approx(float(orthogonality_distance(b.weight.detach())))
        expected = np.linalg.svd(b.weight.detach().numpy(), compute_uv=False)
        np.testing.assert_allclose(record["singular_values"].numpy(), expected, atol=1e-12)
        assert isinstance(f, AffineAdapter)

    # 90 items in batches of 40: 3 steps an epoch, 9 in all.
    _, _, history = fit_adapters(*task(), epochs=3, batch_size=40, every=4, callback=callback)
    assert [record["step"] for record in history] == [4, 8, 9]
    assert seen == history
    assert set(history[0]) == {
        "step",
        "total",
        "forward",
        "backward",
        "contrastive",
        "lambda",
        "delta",
        "singular_values",
    }
    assert all(isinstance(history[0][name], float) for name in ("total", "lambda", "delta"))
    terms = [history[0][name] for name in ("forward", "backward", "contrastive", "lambda")]
    assert history[0]["total"] == pytest.approx(sum(terms))
    assert history[0]["singular_values"].shape == (5,)


def test_a_callback_can_stop_the_fit() -> None:
    _, _, history = quick(every=2, callback=lambda record, b, f: record["step"] >= 6)
    assert [record["step"] for record in history] == [2, 4, 6]
    _, _, history = quick(epochs=1, every=1, callback=lambda *_: 1)
    assert len(history) == 3, "only True stops"


def test_seeds_and_the_global_random_state() -> None:
    state = torch.get_rng_state()
    first = quick(seed=3)[0].weight
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert torch.equal(quick(seed=3)[0].weight, first)
    assert not torch.equal(quick(seed=4)[0].weight, first)


def test_features_of_the_new_models_type_and_arrays() -> None:
    h_old, h_new, labels = task()
    b, f, _ = fit_adapters(h_old, h_new.float(), labels, epochs=1)
    assert {p.dtype for part in (b, f) for p in part.parameters()} == {torch.float32}
    arrays = fit_adapters(h_old.numpy(), h_new.numpy(), labels.numpy(), epochs=1)
    assert torch.equal(arrays[0].weight, fit_adapters(h_old, h_new, labels, epochs=1)[0].weight)
    with torch.no_grad():
        inside = fit_adapters(h_old, h_new, labels, epochs=1)
    assert torch.equal(inside[0].weight, arrays[0].weight)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"backward": "orthogonal"}, "backward"),
        ({"init": "random"}, "init"),
        ({"parametrization": "givens"}, "parametrization"),
        ({"parametrization": "givens", "backward": "strict"}, "parametrization"),
        ({"mode": "hard"}, "mode"),
        ({"lam": -1.0}, "lam"),
        ({"lam": math.nan}, "lam"),
        ({"beta": 0.0}, "beta"),
        ({"temperature": 0.0}, "temperature"),
        ({"w_forward": -1.0}, "w_forward"),
        ({"w_lambda": -1.0, "backward": "affine"}, "w_lambda"),
        ({"epochs": 0}, "epochs"),
        ({"lr": 0.0}, "lr"),
        ({"batch_size": 0}, "batch_size"),
        ({"every": 0}, "every"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": 0.1, "backward": "strict"}, "weight_decay"),
    ],
)
def test_refused_options(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        fit_adapters(*task(), **options)


def test_refused_features() -> None:
    h_old, h_new, labels = task()
    for given, name in (
        ((h_old[:9], h_new, labels), "h_old"),
        ((h_old, h_new[:9], labels), "h_new"),
        ((h_old, h_new, labels[:9]), "labels"),
        ((h_old[0], h_new, labels), "h_old"),
        ((h_old[:0], h_new[:0], labels[:0]), "h_old"),
    ):
        with pytest.raises(ValueError, match=name):
            fit_adapters(*given)
