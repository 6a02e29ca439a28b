"""Conda, GaLore and Fira with matrices one by one against the same steps in batches of equal shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normviz.optim import Conda, FiraAdamW, FiraRMSProp, GaLoreAdamW, GaLoreRMSProp, _each, _projected

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (3, 2, 2, 2)]
STEPS = 7
EPS = 1e-3
"""Large, because coordinates that are zero but for rounding are divided by it: in "full" all off the diagonal."""

SIDES = ("std", "reverse_std", "left", "right", "full")
Build = Callable[[list[nn.Parameter], str], Optimizer]


def low_rank(cls: Callable[..., Optimizer], **options: Any) -> Build:
    return lambda params, side: cls(
        [{"params": params, "rank": 2, "update_proj_gap": 3, "alpha": 0.5, "proj_type": side}],
        lr=0.05,
        eps=EPS,
        **options,
    )


OPTIMIZERS: dict[str, Build] = {
    "Conda": lambda params, side: Conda(
        [{"params": params, "update_proj_gap": 3, "scale": 0.5, "proj_type": side}],
        lr=0.05,
        eps=EPS,
        weight_decay=0.1,
    ),
    "GaLoreAdamW": low_rank(GaLoreAdamW, weight_decay=0.1),
    "GaLoreRMSProp": low_rank(GaLoreRMSProp, momentum=0.5, centered=True),
    "FiraAdamW": low_rank(FiraAdamW, weight_decay=0.1, correct_bias=False),
    "FiraAdamW, orthogonal": low_rank(FiraAdamW, residual="orthogonal", gamma=None),
    "FiraRMSProp": low_rank(FiraRMSProp, gamma=1.1),
}


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(SHAPES)]


def train(optimizer: Optimizer, params: list[nn.Parameter]) -> None:
    """Steps in which now and then a parameter has no gradient, so that counters differ."""
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = None if (step + i) % 5 == 4 else gaussian(*p.shape, seed=100 * step + i, dtype=p.dtype)
        optimizer.step()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_by_one_equals_batches(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_each, "ENTRIES", 50)  # two at a time, one, two
    alone, together = parameters(), parameters()
    first, second = OPTIMIZERS[name](alone, side), OPTIMIZERS[name](together, side)
    train(first, alone)
    monkeypatch.setattr(_projected, "one_by_one", lambda slots: False)
    train(second, together)
    for p, q in zip(alone, together, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
        assert list(first.state[p]) == list(second.state[q])
        for key, value in first.state[p].items():
            torch.testing.assert_close(value, second.state[q][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_and_bases_are_left_alone(name: str) -> None:
    params = parameters(torch.float32)
    optimizer = OPTIMIZERS[name](params, "std")
    train(optimizer, params)
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    bases = [optimizer.state[p]["basis"].clone() for p in params]
    optimizer.step()  # the eighth: no basis is due
    for p, g, basis in zip(params, grads, bases, strict=True):
        assert g is None or torch.equal(p.grad, g)  # type: ignore[arg-type]
        if optimizer.state[p]["step"] % 3 != 1:
            assert torch.equal(optimizer.state[p]["basis"], basis)


def slots_of(*params: nn.Parameter) -> list[tuple[Tensor, dict[str, Any]]]:
    for p in params:
        p.grad = torch.ones_like(p)
    return [(p, {}) for p in params]


def test_which_parameters_can_be_stepped_alone() -> None:
    plain = nn.Parameter(torch.ones(3, 4))
    assert _each.one_by_one(slots_of(plain, nn.Parameter(torch.ones(2, 2, dtype=torch.float64))))
    half = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16))
    turned = nn.Parameter(torch.ones(4, 3).T)
    meta = nn.Parameter(torch.ones(3, 4, device="meta"))
    for other in (half, turned, meta):
        assert not _each.one_by_one(slots_of(plain, other))


def test_parts_hold_every_parameter_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_each, "ENTRIES", 10)
    slots = slots_of(*(nn.Parameter(torch.ones(1, n)) for n in (4, 6, 1, 30, 2, 8)))
    sizes = [[p.numel() for p, _ in part] for part in _each.parts(slots)]
    assert sizes == [[4, 6], [1], [30], [2, 8]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_in_another_order_in_memory_take_the_batch(name: str) -> None:
    def turned() -> list[nn.Parameter]:
        return [
            nn.Parameter(p.detach().mT.contiguous().mT if p.ndim == 2 else p.detach()) for p in parameters()
        ]

    params, twins = turned(), parameters()
    train(OPTIMIZERS[name](params, "std"), params)
    train(OPTIMIZERS[name](twins, "std"), twins)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_a_run_goes_on_bit_for_bit_after_a_deep_copy() -> None:
    params = parameters(torch.float32)
    optimizer = OPTIMIZERS["FiraAdamW"](params, "std")
    train(optimizer, params)
    twins, twin = copy.deepcopy((params, optimizer))
    train(optimizer, params)
    train(twin, twins)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
