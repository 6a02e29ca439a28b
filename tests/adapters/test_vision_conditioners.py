"""The four conditioning modules of LaVi against loops over text tokens in NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.adapters import AttentionConditioner, ConvConditioner, MLPConditioner, PooledConditioner
from tests.adapters import lavi_formulas as formulas

B, T, M, D, V, R = 3, 4, 5, 8, 6, 4
MAKE = {
    "attention": lambda: AttentionConditioner(D, R, V, num_heads=2),
    "mlp": lambda: MLPConditioner(D, R, V, num_visual_tokens=M),
    "mlp-wide": lambda: MLPConditioner(D, R, V, num_visual_tokens=M, token_hidden=7, channel_hidden=3),
    "conv": lambda: ConvConditioner(D, R, V),
    "conv-3": lambda: ConvConditioner(D, R, V, kernel_size=3),
    "conv-1": lambda: ConvConditioner(D, R, V, kernel_size=1),
    "conv-13": lambda: ConvConditioner(D, R, V, kernel_size=13),
    "pooled": lambda: PooledConditioner(D, R, V),
}


def made(kind: str, seed: int = 0) -> nn.Module:
    """Weights, biases and gains far from where they start."""
    torch.manual_seed(seed)
    module = MAKE[kind]().double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return module


def drawn(seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(B, T, D, generator=g, dtype=torch.float64),
        torch.randn(B, M, V, generator=g, dtype=torch.float64),
    )


MASK = torch.tensor([[True, False, True, True, False], [False, True, True, True, True], [True] * 5])


def by_token(kind: str, module: nn.Module, u: Tensor, vision: Tensor, mask: Tensor | None = None) -> Tensor:
    """Every text token by itself, from the formulas."""
    w = formulas.weights_of(module)
    out = np.zeros((B, T, R))
    for b in range(B):
        valid = None if mask is None else mask[b].numpy()
        image = vision[b].numpy()
        for t in range(T):
            token = u[b, t].numpy()
            if kind == "attention":
                out[b, t] = formulas.attention(w, token, image if valid is None else image[valid], heads=2)
            elif kind.startswith("mlp"):
                out[b, t] = formulas.mlp(w, token, image, valid)
            elif kind.startswith("conv"):
                out[b, t] = formulas.conv(w, token, image, valid)
            else:
                out[b, t] = formulas.pooled(w, image if valid is None else image[valid])
    return torch.from_numpy(out)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", MAKE)
def test_check_6_shared_computation_equals_a_loop_over_tokens(kind: str, masked: bool) -> None:
    module, (u, vision) = made(kind), drawn()
    mask = MASK if masked else None
    expected = by_token(kind, module, u, vision, mask)
    torch.testing.assert_close(module(u, vision, mask), expected, rtol=1e-10, atol=1e-12)
    projected = module.project(vision, mask)
    for t in range(T):  # what was projected once serves every token
        part = module.condition(u[:, t : t + 1], projected)
        torch.testing.assert_close(part, expected[:, t : t + 1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", MAKE)
def test_an_all_true_mask_changes_nothing(kind: str) -> None:
    module, (u, vision) = made(kind), drawn()
    everything = torch.ones(B, M, dtype=torch.bool)
    torch.testing.assert_close(module(u, vision, everything), module(u, vision), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", MAKE)
def test_what_masked_tokens_hold_never_matters(kind: str) -> None:
    module, (u, vision) = made(kind), drawn()
    spoilt = vision.masked_fill(~MASK.unsqueeze(-1), float("nan")).requires_grad_()
    out = module(u, spoilt, MASK)
    assert torch.equal(out, module(u, vision, MASK))
    out.sum().backward()
    assert torch.equal(spoilt.grad[~MASK], torch.zeros_like(spoilt.grad[~MASK]))


@pytest.mark.parametrize("kind", MAKE)
def test_a_sample_without_a_valid_token_is_finite(kind: str) -> None:
    module, (u, vision) = made(kind), drawn()
    mask = MASK.clone()
    mask[1] = False
    vision.requires_grad_()
    out = module(u, vision, mask)
    out.sum().backward()
    assert out.isfinite().all()
    assert vision.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    if kind == "attention":
        assert torch.equal(out[1], torch.zeros(T, R, dtype=torch.float64))


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "pooled"])
def test_text_tokens_are_treated_separately(kind: str) -> None:
    module, (u, vision) = made(kind), drawn()
    moved = u.clone()
    moved[:, 2] += torch.linspace(-1, 1, D, dtype=torch.float64)
    change = (module(moved, vision) - module(u, vision)).abs().amax((0, 2))
    assert change[2] > 1e-3
    assert torch.equal(change[[0, 1, 3]], torch.zeros(3, dtype=torch.float64))


def test_pooled_is_the_same_for_all_text_tokens() -> None:
    module, (u, vision) = made("pooled"), drawn()
    out = module(u, vision)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert torch.equal(out, module(torch.randn_like(u), vision))


def test_check_5_attention_is_pytorchs_and_knows_no_order() -> None:
    module, (u, vision) = made("attention"), drawn()
    q, k, v = (
        projection(x).view(B, -1, 2, R // 2).transpose(1, 2)
        for projection, x in ((module.q_proj, u), (module.k_proj, vision), (module.v_proj, vision))
    )
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(u, vision), expected, rtol=1e-12, atol=1e-13)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(module(u, vision[:, order]), expected, rtol=1e-12, atol=1e-13)
    weights = module.weights(u, vision)
    torch.testing.assert_close(weights, (q @ k.mT / (R / 2) ** 0.5).softmax(-1), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close((weights @ v).transpose(1, 2).flatten(2), expected, rtol=1e-12, atol=1e-13)


def test_check_5_masked_tokens_are_removed_tokens() -> None:
    module, (u, vision) = made("attention"), drawn()
    out = module(u, vision, MASK)
    for b in range(B):
        alone = module(u[b : b + 1], vision[b : b + 1, MASK[b]])
        torch.testing.assert_close(out[b : b + 1], alone, rtol=1e-12, atol=1e-13)


def test_a_mask_for_each_text_token() -> None:
    module, (u, vision) = made("attention"), drawn()
    mask = torch.rand(B, T, M, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[0, 1] = False
    out = module(u, vision, mask)
    for t in range(T):
        torch.testing.assert_close(out[:, t], module(u, vision, mask[:, t])[:, t], rtol=1e-12, atol=1e-13)
    assert torch.equal(out[0, 1], torch.zeros(R, dtype=torch.float64))
    assert torch.equal(module.weights(u, vision, mask).sum(-1)[0, :, 1], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["attention", "mlp", "conv-3", "pooled"])
def test_check_7_gradients(kind: str) -> None:
    module, (u, vision) = made(kind), drawn()
    names = [name for name, _ in module.named_parameters()]

    def call(u: Tensor, vision: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(
            module, dict(zip(names, parameters, strict=True)), (u, vision, MASK[:1])
        )

    given = (u[:1, :2].clone().requires_grad_(kind != "pooled"), vision[:1].clone().requires_grad_())
    assert torch.autograd.gradcheck(call, (*given, *module.parameters()))


def test_no_visual_tokens_at_all() -> None:
    u, vision = drawn()
    none = vision[:, :0]
    assert torch.equal(made("attention")(u, none), torch.zeros(B, T, R, dtype=torch.float64))
    w = formulas.weights_of(module := made("conv"))
    expected = np.array([[formulas.conv(w, token, np.zeros((0, V))) for token in row] for row in u.numpy()])
    torch.testing.assert_close(module(u, none), torch.from_numpy(expected))


def test_hidden_widths_default_to_r_and_2r() -> None:
    module = MLPConditioner(D, R, num_visual_tokens=M)
    assert module.token_in.weight.shape == (R, M + 1)
    assert module.token_out.weight.shape == (M + 1, R)
    assert module.channel_in.weight.shape == (2 * R, R)
    assert module.vision_dim == D


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AttentionConditioner(8, 6, num_heads=4), "num_heads"),
        (lambda: ConvConditioner(8, 4, kernel_size=4), "kernel_size"),
        (lambda: ConvConditioner(8, 4, kernel_size=-1), "kernel_size"),
        (
            partial(MLPConditioner(8, 4, num_visual_tokens=5), torch.zeros(1, 2, 8), torch.zeros(1, 6, 8)),
            "5.*6",
        ),
        (partial(ConvConditioner(8, 4), torch.zeros(1, 2, 8), torch.zeros(1, 6, 7)), "vision"),
        (partial(ConvConditioner(8, 4), torch.zeros(1, 2, 8), torch.zeros(2, 6, 8)), "vision"),
        (partial(ConvConditioner(8, 4), torch.zeros(1, 2, 7), torch.zeros(1, 6, 8)), "u must"),
        (
            partial(
                ConvConditioner(8, 4), torch.zeros(1, 2, 8), torch.zeros(1, 6, 8), torch.ones(1, 2, 6).bool()
            ),
            "vision_mask",
        ),
        (
            partial(PooledConditioner(8, 4), torch.zeros(1, 2, 8), torch.zeros(1, 6, 8), torch.ones(1, 6)),
            "bool",
        ),
        (
            partial(
                AttentionConditioner(8, 4),
                torch.zeros(1, 2, 8),
                torch.zeros(1, 6, 8),
                torch.ones(1, 3, 6).bool(),
            ),
            "vision_mask",
        ),
    ],
)
def test_bad_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
