import math

import numpy as np
import pytest
import torch

from normviz.attention import apply_rotary, rope_1d, rope_2d
from normviz.attention._rotary import rope_at


def frequency(i: int, count: int) -> float:
    return 10000 ** -(i / (count - 1) if count > 1 else 0.0)


def turned(x: np.ndarray, angles: list[float]) -> np.ndarray:
    """Pairs (even, odd) of x multiplied as complex numbers by exp(i angle)."""
    out = np.empty_like(x)
    for pair, angle in enumerate(angles):
        z = complex(x[2 * pair], x[2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
        out[2 * pair : 2 * pair + 2] = z.real, z.imag
    return out


@pytest.mark.parametrize("d", [4, 8, 12])
def test_grid_tables_turn_by_row_and_column(d: int) -> None:
    H, W = 3, 5
    x = torch.randn(2, H * W, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sin, cos = rope_2d(H, W, d, dtype=torch.float64)
    assert sin.shape == cos.shape == (H * W, d)
    y = apply_rotary(x, sin, cos).numpy()
    f = [frequency(i, d // 4) for i in range(d // 4)]
    for row in range(H):
        for column in range(W):
            angles = [row * fi for fi in f] + [column * fi for fi in f]
            for b in range(2):
                position = row * W + column
                np.testing.assert_allclose(y[b, position], turned(x[b, position].numpy(), angles), atol=1e-12)


@pytest.mark.parametrize("d", [2, 6])
def test_line_tables(d: int) -> None:
    N = 7
    x = torch.randn(N, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = apply_rotary(x, *rope_1d(N, d, dtype=torch.float64)).numpy()
    for n in range(N):
        angles = [n * frequency(i, d // 2) for i in range(d // 2)]
        np.testing.assert_allclose(y[n], turned(x[n].numpy(), angles), atol=1e-12)
    later = rope_at(torch.arange(3, 7, dtype=torch.float64), d)
    for rows, whole in zip(later, rope_1d(N, d, dtype=torch.float64), strict=True):
        torch.testing.assert_close(rows, whole[3:])


def test_both_ends_of_the_frequencies_are_included() -> None:
    sin, _ = rope_1d(2, 8, dtype=torch.float64)
    assert sin[1, 0].item() == pytest.approx(math.sin(1.0))
    assert sin[1, 7].item() == pytest.approx(math.sin(1e-4))
    assert torch.equal(sin[:, 0::2], sin[:, 1::2])


def test_origin_is_the_identity_and_norms_are_kept() -> None:
    x = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(1))
    y = apply_rotary(x, *rope_2d(3, 4, 8))
    torch.testing.assert_close(y[..., 0, :], x[..., 0, :], rtol=0, atol=0)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert (y[..., 1, :] - x[..., 1, :]).abs().max() > 0.1


def test_inner_products_depend_on_the_difference_of_positions() -> None:
    sin, cos = rope_2d(6, 6, 8, dtype=torch.float64)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    Q, K = apply_rotary(q.expand(36, 8), sin, cos), apply_rotary(k.expand(36, 8), sin, cos)
    products = (Q @ K.T).reshape(6, 6, 6, 6)
    torch.testing.assert_close(products[2, 3, 1, 1], products[5, 4, 4, 2])
    assert (products[2, 3, 1, 1] - products[2, 3, 1, 2]).abs() > 1e-3


def test_parts_of_a_wider_feature_turn_alike_and_dtype_is_kept() -> None:
    sin, cos = rope_1d(5, 4)
    x = torch.randn(2, 5, 8)
    y = apply_rotary(x, sin, cos)
    for part in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(y[..., part], apply_rotary(x[..., part], sin, cos))
    assert apply_rotary(x.bfloat16(), sin, cos).dtype == torch.bfloat16
    assert rope_2d(2, 2, 4)[0].dtype == torch.get_default_dtype()
    assert rope_1d(2, 4, dtype=torch.float64)[1].dtype == torch.float64
    assert rope_1d(2, 4, device="meta")[1].device.type == "meta"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rope_2d(2, 2, 6), "head_dim must be a multiple of 4 for 2D rotary, got 6"),
        (lambda: rope_2d(0, 2, 4), "H must be"),
        (lambda: rope_1d(2, 3), "head_dim must be even for 1D rotary, got 3"),
        (lambda: rope_1d(0, 4), "N must be"),
        (lambda: apply_rotary(torch.ones(3, 4), *rope_1d(2, 4)), "N = 3"),
        (lambda: apply_rotary(torch.ones(2, 6), *rope_1d(2, 4)), "divisor of 6"),
        (lambda: apply_rotary(torch.ones(2, 4), rope_1d(2, 4)[0], rope_1d(2, 2)[0]), "sin and cos"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
