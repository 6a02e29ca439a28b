"""A compiled step, and state that an earlier version has written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from normviz.optim import AdaGradNorm, Conda, FiraAdamW, GaLoreAdamW, MultiNormGD, Muon, NorMuon, SinkGD
from normviz.testing import assert_compiles_once
from normviz.testing.optimizers import MATRICES, SHAPES, Training


def projected(cls: Callable[..., Optimizer], **projection: Any) -> Callable[..., Optimizer]:
    def make(params: Sequence[nn.Parameter], **options: Any) -> Optimizer:
        matrices = {"params": [p for p in params if p.ndim >= 2], **projection}
        return cls([matrices, {"params": [p for p in params if p.ndim < 2]}], **options)

    return make


CLIMBING = {
    "NorMuon": partial(NorMuon, maximize=True, weight_decay=0.1, zero_missing_grads=True),
    "SinkGD": partial(SinkGD, maximize=True, weight_decay=0.1),
    "AdaGradNorm": partial(AdaGradNorm, maximize=True, weight_decay=0.1, lr_decay=0.5, momentum=0.5),
    "Conda": partial(projected(Conda, update_proj_gap=3), maximize=True, weight_decay=0.1),
    "Fira": partial(projected(FiraAdamW, rank=2, update_proj_gap=3), maximize=True, weight_decay=0.1),
}


@pytest.mark.parametrize("make", CLIMBING.values(), ids=CLIMBING)
def test_compiled_steps_climb_and_decay_like_eager_ones(make: Callable[..., Optimizer]) -> None:
    eager, other = Training(make, SHAPES, torch.float64), Training(make, SHAPES, torch.float64)
    torch.compiler.reset()
    step = torch.compile(other.optimizer.step, backend="aot_eager")
    for i in range(4):
        other.set_gradients(i)
        other.params[0].grad = None
        given = [(p.grad, p.grad.clone()) for p in other.params if p.grad is not None]
        step()
        eager.set_gradients(i)
        eager.params[0].grad = None
        eager.optimizer.step()
        for gradient, value in given:
            assert torch.equal(gradient, value)
        assert [p.grad for p in other.params[1:]] == [gradient for gradient, _ in given]
    for p, q in zip(other.values(), eager.values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "shapes"), [(Muon, MATRICES), (MultiNormGD, MATRICES), (projected(GaLoreAdamW, rank=2), SHAPES)]
)
def test_compiled_state_goes_on_eagerly(make: Callable[..., Optimizer], shapes: Any) -> None:
    first, second = Training(make, shapes, torch.float64), Training(make, shapes, torch.float64)
    torch.compiler.reset()
    step = torch.compile(first.optimizer.step, backend="aot_eager")
    for i in range(3):
        first.set_gradients(i)
        step()
        second.step(i)
    resumed = Training(make, shapes, torch.float64)
    resumed.load_state_dict(first.state_dict())
    for p, q in zip(resumed.step(3), second.step(3), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
def test_compiled_step_refuses_sparse_gradients_before_anything_has_changed(lr: Any) -> None:
    training = Training(NorMuon, SHAPES, lr=lr)
    torch.compiler.reset()
    step = torch.compile(training.optimizer.step, backend="aot_eager")
    training.set_gradients(0)
    step()
    before = training.values()
    training.set_gradients(1)
    gradient = training.params[-1].grad
    assert gradient is not None
    training.params[-1].grad = gradient.to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        step()
    for p, q in zip(training.values(), before, strict=True):
        assert torch.equal(p, q)


class NewGraphAtEveryRate(torch.optim.SGD):
    """Its learning rate is a number that the compiled part reads."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])


def test_check_finds_a_step_that_is_compiled_anew() -> None:
    with pytest.raises(AssertionError, match="after step 2"):
        assert_compiles_once(NewGraphAtEveryRate, 0.1)


# ---------------------------------------------------------------------------------- state of earlier versions


def adam_by_hand(
    W: np.ndarray, G: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, lr: float, eps: float
) -> np.ndarray:
    """Step t of Adam with the authors' eps, betas (0.9, 0.999), in NumPy."""
    m = 0.9 * m + 0.1 * G
    v = 0.999 * v + 0.001 * G**2
    return W - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + eps)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cls", [Conda, GaLoreAdamW])
def test_projected_state_with_an_integer_counter_is_continued(
    cls: Callable[..., Optimizer], compiled: bool
) -> None:
    """In the basis of the unit vectors both are Adam, so the next step is known in closed form."""
    rng = np.random.default_rng(0)
    W, G, m = rng.standard_normal((3, 3, 3))
    v = rng.random((3, 3))
    p = nn.Parameter(torch.tensor(W))
    own = {"rank": 3, "alpha": 1.0} if cls is GaLoreAdamW else {"scale": 1.0}
    optimizer = cls([{"params": [p], "update_proj_gap": 100, **own}], lr=0.1, eps=1e-8)
    saved = optimizer.state_dict()
    saved["state"] = {
        0: {
            "step": 7,
            "exp_avg": torch.tensor(m),
            "exp_avg_sq": torch.tensor(v),
            "basis": torch.eye(3, dtype=torch.float64),
        }
    }
    optimizer.load_state_dict(saved)
    p.grad = torch.tensor(G)
    torch.compiler.reset()
    (torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step)()
    np.testing.assert_allclose(
        p.detach().numpy(), adam_by_hand(W, G, m, v, 8, 0.1, 1e-8), rtol=1e-9, atol=1e-12
    )
    assert optimizer.state[p]["step"] == 8


@pytest.mark.parametrize("compiled", [False, True])
def test_state_of_adagrad_norm_is_continued(compiled: bool) -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = AdaGradNorm([p], lr=0.5, eps=0.0, lr_decay=0.25)
    saved = optimizer.state_dict()
    saved["state"] = {0: {"sum": torch.tensor(11.0, dtype=torch.float64), "step": torch.tensor(4.0)}}
    optimizer.load_state_dict(saved)
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.compiler.reset()
    (torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step)()
    # sum 11 + 25 = 36, root 6; fifth step: lr 0.5 / (1 + 4 * 0.25) = 0.25
    np.testing.assert_allclose(p.detach().numpy(), [1 - 0.25 * 3 / 6, 2 - 0.25 * 4 / 6], rtol=1e-12)
