"""Entropy of next-token distributions: closed forms, a float64 loop, gradients, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from normviz.decoding import token_entropy
from tests.decoding.references import entropy_bits


@pytest.mark.parametrize("vocab", [1, 2, 7, 1000])
def test_check_1_uniform_logits_have_log2_v_bits(vocab: int) -> None:
    assert token_entropy(torch.full((3, vocab), 4.2)).tolist() == pytest.approx(
        [math.log2(vocab)] * 3, abs=1e-5
    )


def test_check_1_a_certain_token_has_none() -> None:
    certain = torch.full((5,), -math.inf)
    certain[2] = 3.0
    assert token_entropy(certain).item() == 0.0
    assert token_entropy(torch.tensor([0.0, 200.0, 0.0])).item() == pytest.approx(0.0, abs=1e-6)


def test_check_1_a_constant_changes_nothing() -> None:
    logits = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(token_entropy(logits + 37.5), token_entropy(logits), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_a_float64_loop(dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(30, 11, generator=torch.Generator().manual_seed(1), dtype=dtype)
    logits[::3, 4] = -math.inf
    expected = [entropy_bits(row) for row in logits.double().numpy()]
    atol = 1e-12 if dtype == torch.float64 else 3e-6
    np.testing.assert_allclose(token_entropy(logits).double().numpy(), expected, rtol=0, atol=atol)


def test_bases() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    bits = token_entropy(logits)
    torch.testing.assert_close(token_entropy(logits, base=math.e), bits * math.log(2))
    torch.testing.assert_close(token_entropy(logits, 10.0), bits * math.log10(2))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_computed_in_float32_or_better(given: torch.dtype, kept: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]], dtype=given)
    entropy = token_entropy(logits)
    assert entropy.dtype == kept
    assert entropy.item() == pytest.approx(entropy_bits(np.array([1.0, 2.0, -1.0])), abs=1e-6)


def test_gradients_also_beside_impossible_tokens() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert gradcheck(token_entropy, (logits.requires_grad_(),))
    partly = torch.tensor([1.0, -math.inf, 0.5], dtype=torch.float64, requires_grad=True)
    token_entropy(partly).backward()
    assert partly.grad is not None
    assert bool(torch.isfinite(partly.grad).all())
    assert partly.grad[1] == 0


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_no_distribution_no_entropy(bad: list[float]) -> None:
    with pytest.raises(FloatingPointError, match="logits"):
        token_entropy(torch.tensor([[0.0, 1.0], bad]))


@pytest.mark.parametrize("base", [1.0, 0.5, math.nan, math.inf])
def test_bad_bases(base: float) -> None:
    with pytest.raises(ValueError, match="base"):
        token_entropy(torch.zeros(3), base)


@pytest.mark.parametrize("shape", [(), (2, 0)])
def test_logits_need_a_vocabulary(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits"):
        token_entropy(torch.zeros(shape))
