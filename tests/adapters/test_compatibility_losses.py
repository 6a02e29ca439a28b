"""Alignment and contrastive losses against NumPy loops, their gradients and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from normviz.adapters import (
    BackwardAlignmentLoss,
    CompatibilityLoss,
    CrossModelSupConLoss,
    ForwardAlignmentLoss,
    orthogonality_distance,
)

LABELS = torch.tensor([0, 1, 0, 2, 1])


def features(n: int = 5, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, u, h = torch.randn(3, n, d, generator=generator, dtype=torch.float64)
    return z, u, h


def numpy_supcon(parts: list[np.ndarray], labels: list[int], tau: float) -> float:
    """Anchor by anchor, log-softmax over the others."""
    rows = [row / max(np.linalg.norm(row), 1e-12) for part in parts for row in part]
    labels = labels * 3
    anchors = []
    for i, row in enumerate(rows):
        others = [a for a in range(len(rows)) if a != i]
        scores = {a: row @ rows[a] / tau for a in others}
        top = max(scores.values())
        log_sum = top + math.log(sum(math.exp(s - top) for s in scores.values()))
        positives = [a for a in others if labels[a] == labels[i]]
        if positives:
            anchors.append(-np.mean([scores[p] - log_sum for p in positives]))
    return float(np.mean(anchors))


def test_alignment_losses_are_mean_squares() -> None:
    z, u, h = features()
    square = sum((z[i, j] - h[i, j]) ** 2 for i in range(5) for j in range(3)) / 15
    assert float(BackwardAlignmentLoss()(z, h)) == pytest.approx(float(square))
    assert float(ForwardAlignmentLoss()(u, z)) == pytest.approx(((u - z).numpy() ** 2).mean())
    u.requires_grad_()
    z.requires_grad_()
    ForwardAlignmentLoss()(u, z).backward()
    torch.testing.assert_close(u.grad, -z.grad)
    torch.testing.assert_close(u.grad, 2 * (u - z).detach() / 15)


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
def test_check_10_contrast_equals_a_loop(tau: float) -> None:
    parts = features()
    expected = numpy_supcon([part.numpy() for part in parts], LABELS.tolist(), tau)
    assert float(CrossModelSupConLoss(tau)(*parts, LABELS)) == pytest.approx(expected, rel=1e-12)


def test_check_10_contrast_ignores_the_scale_of_rows() -> None:
    parts = features()
    scaled = [part * torch.rand(5, 1, dtype=torch.float64).add(0.1) * 7 for part in parts]
    loss = CrossModelSupConLoss()
    torch.testing.assert_close(loss(*scaled, LABELS), loss(*parts, LABELS), rtol=1e-12, atol=0)


def test_contrast_gradients() -> None:
    parts = [part.requires_grad_() for part in features()]
    assert gradcheck(lambda z, u, h: CrossModelSupConLoss(0.5)(z, u, h, LABELS), parts)


def test_contrast_over_one_item_and_one_class() -> None:
    z, u, h = features()
    one = CrossModelSupConLoss()(z[:1], u[:1], h[:1], LABELS[:1])
    expected = numpy_supcon([part[:1].numpy() for part in (z, u, h)], [0], 0.1)
    assert float(one) == pytest.approx(expected)
    single = torch.zeros(5, dtype=torch.long)
    expected = numpy_supcon([part.numpy() for part in (z, u, h)], single.tolist(), 0.1)
    assert float(CrossModelSupConLoss()(z, u, h, single)) == pytest.approx(expected)


def test_contrast_of_nothing_is_zero_with_a_graph() -> None:
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = CrossModelSupConLoss()(empty, empty, empty, LABELS[:0])
    assert loss.item() == 0
    loss.backward()
    assert empty.grad is not None


def test_zero_features_have_finite_loss_and_gradient() -> None:
    z, u, h = (part.float().clone() for part in features())
    z[0] = 0
    z.requires_grad_()
    loss = CrossModelSupConLoss()(z, u, h, LABELS)
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(z.grad).all())


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 0.0, 3.0)])
def test_total_is_the_weighted_sum(weights: tuple[float, ...]) -> None:
    z, u, h = features()
    w = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    names = ("forward", "backward", "contrastive", "lambda")
    loss = CompatibilityLoss(
        0.5, **{f"w_{name}": x for name, x in zip(names, weights, strict=True)}, mode="hinge", temperature=0.3
    )
    total, parts = loss(z, u, h, LABELS, w)
    assert tuple(parts) == names
    expected = (
        ((u - z).numpy() ** 2).mean(),
        ((z - h).numpy() ** 2).mean(),
        numpy_supcon([part.numpy() for part in (z, u, h)], LABELS.tolist(), 0.3),
        2.5,  # delta = 4 - 1 = 3
    )
    assert [float(part) for part in parts.values()] == pytest.approx(expected)
    assert float(total) == pytest.approx(sum(a * b for a, b in zip(weights, expected, strict=True)))


def test_without_a_weight_there_is_no_orthogonality_term() -> None:
    total, parts = CompatibilityLoss(w_lambda=100.0)(*features(), LABELS, None)
    assert parts["lambda"].item() == 0
    assert float(total) == pytest.approx(sum(float(part) for part in parts.values()))


def test_old_features_get_no_gradient() -> None:
    z, u, h = (part.requires_grad_() for part in features())
    w = torch.eye(3, dtype=torch.float64).mul(2).requires_grad_()
    CompatibilityLoss()(z, u, h, LABELS, w)[0].backward()
    assert h.grad is None
    assert all(x.grad is not None and bool(x.grad.any()) for x in (z, u, w))
    assert float(orthogonality_distance(w.detach())) > 1


def test_refusals() -> None:
    z, u, h = features()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            CrossModelSupConLoss(temperature)
    for name in ("w_forward", "w_backward", "w_contrastive", "w_lambda"):
        with pytest.raises(ValueError, match=name):
            CompatibilityLoss(**{name: -0.1})
    with pytest.raises(ValueError, match="h_old"):
        BackwardAlignmentLoss()(z, h[:4])
    with pytest.raises(ValueError, match=r"\bu\b"):
        ForwardAlignmentLoss()(u[:, :2], z)
    with pytest.raises(ValueError, match="h_old"):
        CrossModelSupConLoss()(z, u, h[:4], LABELS)
    with pytest.raises(ValueError, match="labels"):
        CrossModelSupConLoss()(z, u, h, LABELS[:4])
    assert "w_lambda=1" in repr(CompatibilityLoss())
    assert "temperature=0.1" in repr(CompatibilityLoss())
