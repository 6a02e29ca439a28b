"""The cost formulas: worked numbers, growth with the image, and a count of the products that really run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from normviz.adapters import (
    LaViDecoder,
    concat_flops,
    cross_attention_flops,
    decoder_flops,
    lavi_flops,
)

VICUNA = {"T": 64, "M": 576, "layers": 32, "dim": 4096, "ffn": 11008}
QWEN = {"T": 64, "M": 7290, "layers": 28, "dim": 3584, "ffn": 18944, "kv_dim": 512}
SMALL = {"T": 6, "layers": 4, "dim": 16, "ffn": 64, "ffn_mats": 2}


@pytest.mark.parametrize(
    ("shape", "norms", "r", "concat", "lavi", "saved"),
    [(VICUNA, 16, 1024, 8.50e12, 1.01e12, 0.881), (QWEN, 14, 896, 117.7e12, 2.19e12, 0.981)],
)
def test_check_8_the_two_worked_numbers(
    shape, norms: int, r: int, concat: float, lavi: float, saved: float
) -> None:
    """Eight and seven modulated layers, two norms in each."""
    before, after = concat_flops(**shape), lavi_flops(**shape, n_mod=norms, cond_dim=r)
    assert before == pytest.approx(concat, rel=1e-3)
    assert after == pytest.approx(lavi, rel=4e-3)
    assert 1 - after / before == pytest.approx(saved, abs=5e-4)


@pytest.mark.parametrize("conditioner", ["attention", "mlp", "conv", "pooled"])
def test_check_8_lavi_is_affine_in_visual_tokens(conditioner: str) -> None:
    values = [lavi_flops(M=m, n_mod=3, cond_dim=8, conditioner=conditioner, **SMALL) for m in range(0, 50, 5)]
    steps = {b - a for a, b in pairwise(values)}
    assert len(steps) == 1
    assert steps.pop() > 0 or conditioner == "pooled"


def test_check_8_concatenation_is_quadratic() -> None:
    values = [concat_flops(M=m, **SMALL) for m in range(0, 50, 5)]
    first = [b - a for a, b in pairwise(values)]
    second = {b - a for a, b in pairwise(first)}
    # 2 L 2 d (T + M)^2 is the only square: the second difference for steps of 5 is 2 * 25 of it.
    assert second == {2 * 25 * 2 * SMALL["layers"] * 2 * SMALL["dim"]}
    assert concat_flops(M=0, **SMALL) == decoder_flops(6, 4, 16, 64, ffn_mats=2)


def counted(model: LaViDecoder, M: int, T: int, vision_dim: int) -> int:
    """Products that run in the blocks: the projector and the output matrix are left out, as in the formulas."""
    image, tokens = torch.randn(1, M, vision_dim), torch.zeros(1, T, dtype=torch.long)
    # PyTorch's counter does not know the fused attention of the CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:
        model(tokens, image)
    with torch.no_grad(), FlopCounterMode(display=False) as around:
        model.projector(image)
        model.head(torch.zeros(1, T, model.dim))
    return whole.get_total_flops() - around.get_total_flops()


@pytest.mark.parametrize("sublayers", ["attn", "both"])
@pytest.mark.parametrize(("T", "M"), [(6, 9), (3, 40)])
def test_the_formulas_count_what_runs(T: int, M: int, sublayers: str) -> None:
    torch.manual_seed(0)
    shape = {**SMALL, "T": T, "M": M}
    build = {"vocab_size": 5, "dim": 16, "depth": 4, "num_heads": 2, "vision_dim": 7, "modulate_every": 2}
    norms = 4 if sublayers == "both" else 2
    lavi = LaViDecoder(**build, sublayers=sublayers)
    assert counted(lavi, M, T, 7) == lavi_flops(**shape, n_mod=norms, cond_dim=8)
    pooled = LaViDecoder(**build, sublayers=sublayers, conditioner="pooled")
    head_for_all_tokens = 2 * norms * (T - 1) * 2 * 8 * 16  # the formula takes the vector once for an image
    assert counted(pooled, M, T, 7) == head_for_all_tokens + lavi_flops(
        **shape, n_mod=norms, cond_dim=8, conditioner="pooled"
    )
    mlp = LaViDecoder(**build, sublayers=sublayers, conditioner="mlp", num_visual_tokens=M)
    expected = lavi_flops(**shape, n_mod=norms, cond_dim=8, conditioner="mlp")
    # The formula has 2 T h r for the text row: one product runs as such, the other is not a matrix product.
    assert counted(mlp, M, T, 7) == expected - 2 * norms * T * 8 * 8
    concat = LaViDecoder(**build, fusion="concat")
    assert counted(concat, M, T, 7) == concat_flops(**shape)
    cross = LaViDecoder(**build, fusion="cross_attention")
    assert counted(cross, M, T, 7) == cross_attention_flops(**shape, n_mod=2)


def test_hidden_widths_and_key_width_have_defaults() -> None:
    base = {**SMALL, "M": 9, "n_mod": 2, "cond_dim": 8}
    assert lavi_flops(**base, conditioner="mlp") == lavi_flops(
        **base, conditioner="mlp", token_hidden=8, channel_hidden=16, vision_dim=16, kv_dim=16
    )
    assert lavi_flops(**base, conditioner="conv") == lavi_flops(**base, conditioner="conv", kernel_size=7)
    assert lavi_flops(**{**base, "n_mod": 0}) == decoder_flops(6, 4, 16, 64, ffn_mats=2)


@pytest.mark.parametrize("conditioner", ["attention", "mlp", "conv", "pooled"])
def test_one_conditioner_by_hand(conditioner: str) -> None:
    """T = 2, M = 3, d = 4, dv = 5, r = 6, with h = 7, w = 11, k = 3."""
    by_hand = {
        "attention": 2 * 4 * 6 + 2 * 3 * 5 * 6 + 2 * 2 * 3 * 6 + 2 * 2 * 6 * 4,
        "mlp": 2 * 4 * 6 + 3 * 5 * 6 + 3 * 7 * 6 + 2 * 2 * 7 * 6 + 2 * 2 * 6 * 11 + 2 * 2 * 6 * 4,
        "conv": 2 * 4 * 6 + 3 * 5 * 6 + 2 * 4 * (3 * 6 + 36) + 2 * 2 * 6 * 4,
        "pooled": 5 * 6 + 2 * 6 * 4,
    }
    widths = {"vision_dim": 5, "token_hidden": 7, "channel_hidden": 11, "kernel_size": 3}
    found = lavi_flops(2, 3, 1, 4, 8, 1, 6, conditioner, **widths) - decoder_flops(2, 1, 4, 8)
    assert found == 2 * by_hand[conditioner]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoder_flops(-1, 1, 4, 8), "n must"),
        (lambda: decoder_flops(1, 0, 4, 8), "layers"),
        (lambda: concat_flops(1, 1.5, 1, 4, 8), "M must"),
        (lambda: lavi_flops(1, 1, 1, 4, 8, 1, 2, "film"), "conditioner"),
        (lambda: lavi_flops(1, 1, 1, 4, 8, -1, 2), "n_mod"),
        (lambda: lavi_flops(1, 1, 1, 4, 8, 1, 2, vision_dim=0), "vision_dim"),
        (lambda: cross_attention_flops(1, 1, 1, 4, 8, -1), "n_mod"),
    ],
)
def test_bad_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
