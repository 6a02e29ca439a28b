from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from normviz.data import load_mnist1d
from normviz.data.mnist1d import _DRAWN, MNIST1D_TEMPLATES, _deform, _examples


def by_hand(
    template: list[float],
    padding: int,
    scale: float,
    shift: int,
    smooth: list[float],
    noise: list[float],
    shear: float,
) -> list[float]:
    """The published steps, value by value: pad, stretch, scale, shift, noise, shear, resample."""

    def read(values: list[float], at: float) -> float:
        below = min(math.floor(at), len(values) - 2)
        return values[below] + (at - below) * (values[below + 1] - values[below])

    padded = template + [0.0] * padding
    stretched = [read(padded, i * (len(padded) - 1) / 71) * scale for i in range(72)]
    inside = [i * (len(padded) - 1) / 71 < len(template) for i in range(72)]
    moved = [stretched[(i - shift) % 72] for i in range(72)]
    there = [inside[(i - shift) % 72] for i in range(72)]
    whole = [
        (value if signal else smooth[i]) + noise[i] - shear * (i / 71 - 0.5)
        for i, (value, signal) in enumerate(zip(moved, there, strict=True))
    ]
    return [read(whole, i * 71 / 39) for i in range(40)]


@given(
    label=st.integers(0, 9),
    padding=st.integers(36, 60),
    scale=st.floats(0.8, 1.2),
    shift=st.integers(0, 47),
    shear=st.floats(-0.4, 0.4),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_an_example_follows_the_published_steps(
    label: int, padding: int, scale: float, shift: int, shear: float, seed: int
) -> None:
    smooth, noise = np.random.default_rng(seed).standard_normal((2, 72))
    template = MNIST1D_TEMPLATES[label]
    expected = by_hand(template.tolist(), padding, scale, shift, smooth.tolist(), noise.tolist(), shear)
    measured = _deform(template, padding, scale, shift, smooth, noise, shear)
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-9)


def test_templates_begin_at_zero_with_a_deviation_of_a_sixth() -> None:
    assert MNIST1D_TEMPLATES.shape == (10, 12)
    np.testing.assert_allclose(MNIST1D_TEMPLATES[:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(MNIST1D_TEMPLATES.std(1), 1 / 6)
    for drawn, template in zip(_DRAWN, MNIST1D_TEMPLATES, strict=True):
        assert abs(np.corrcoef(drawn, template)[0, 1] - 1) < 1e-12


def test_the_set_has_the_papers_sizes_and_is_standardised() -> None:
    data = load_mnist1d()
    assert (len(data.x_train), len(data.x_test), data.input_shape) == (4000, 1000, (1, 1, 40))
    assert torch.bincount(data.y_train).tolist() == [400] * 10
    assert torch.bincount(data.y_test).tolist() == [100] * 10
    assert abs(float(data.x_train.mean())) < 1e-5
    assert abs(float(data.x_train.std()) - 1) < 1e-3
    signals, _ = _examples(500, 0)
    low, high = signals.min(), signals.max()
    assert low - 1e-5 <= float(data.unscale(data.x_test).min())
    assert float(data.unscale(data.x_test).max()) <= high + 1e-5


def test_seeds_share_no_example() -> None:
    one, two = (load_mnist1d("flat", size=200, seed=seed) for seed in (3, 4))
    distances = torch.cdist(torch.cat([one.x_train, one.x_test]), torch.cat([two.x_train, two.x_test]))
    assert float(distances.min()) > 0.1
    load_mnist1d.cache_clear()
    assert torch.equal(load_mnist1d("flat", size=200, seed=3).x_test, one.x_test)


def test_layouts_are_the_same_numbers() -> None:
    image = load_mnist1d(size=100)
    for layout, shape in (("flat", (40,)), ("sequence", (40, 1))):
        other = load_mnist1d(layout, size=100)
        assert other.input_shape == shape
        assert torch.equal(other.x_train.flatten(1), image.x_train.flatten(1))


def test_it_is_as_hard_as_published() -> None:
    """A linear classifier gets about 32 % in the paper: more would mean that the shifts are missing."""
    data = load_mnist1d("flat")
    fitted = LogisticRegression(max_iter=200).fit(data.x_train.numpy(), data.y_train.numpy())
    assert 0.26 < fitted.score(data.x_test.numpy(), data.y_test.numpy()) < 0.40


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layout": "rows"}, "layout"),
        ({"size": 15}, "size must be a multiple of 10, got 15"),
        ({"size": 0}, "size"),
        ({"seed": -1}, "seed"),
        ({"test_size": 1.5}, "test_size"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_mnist1d(**arguments)  # type: ignore[arg-type]
