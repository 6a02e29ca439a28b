"""The synthetic fire data: its law, recomputed in NumPy from the maps that it returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normviz.norms import make_synthetic_firecube, min_max_scale


def law(cube, response: str, season: float) -> np.ndarray:
    dynamic, landcover = cube["dynamic"].double().numpy(), cube["landcover"].double().numpy()
    half = landcover.shape[1] // 2
    m = sum(landcover[:, i] for i in range(half)) - sum(landcover[:, half + i] for i in range(half))
    dryness = (dynamic[:, 0, 0] + dynamic[:, 0, 1] + dynamic[:, 0, 2]) / 3 + 0.5
    if response == "local":
        c = np.array([np.mean(a * b) for a, b in zip(m, dryness, strict=True)])
    else:
        c = np.array([np.mean(a) * np.mean(b) for a, b in zip(m, dryness, strict=True)])
    middle = np.sort(c)[(len(c) - 1) // 2]
    summer = 1.5 * np.cos(2 * np.pi * (cube["day"].numpy() - 213) / 366)
    return 1 / (1 + np.exp(-(4 * (c - middle) / c.std(ddof=1) + season * summer)))


@pytest.mark.parametrize(("response", "season"), [("local", 0.0), ("global", 0.0), ("local", 2.0)])
@pytest.mark.parametrize("n", [40, 41])
def test_probability_follows_the_law(response, season, n) -> None:
    cube = make_synthetic_firecube(n, 3, 9, 6, season, response, channels=(2, 1, 4))
    np.testing.assert_allclose(cube["prob"], law(cube, response, season), rtol=0, atol=1e-4)


def test_shapes_types_and_ranges() -> None:
    cube = make_synthetic_firecube(6)
    shapes = {name: tuple(value.shape) for name, value in cube.items()}
    assert shapes == {
        "dynamic": (6, 10, 10, 25, 25),
        "static": (6, 5, 25, 25),
        "landcover": (6, 10, 25, 25),
        "day": (6,),
        "label": (6,),
        "prob": (6,),
    }
    for name, value in cube.items():
        assert value.dtype == (torch.int64 if name in ("day", "label") else torch.float32), name
    torch.testing.assert_close(cube["landcover"].sum(1), torch.ones(6, 25, 25))


def test_labels_and_days_are_drawn_as_stated() -> None:
    cube = make_synthetic_firecube(4000, size=2, days=3, channels=(1, 1, 2), knots=2)
    day, label, prob = cube["day"], cube["label"], cube["prob"]
    assert set(label.tolist()) == {0, 1}
    assert (int(day.min()), int(day.max())) == (1, 366)
    assert abs(float(day.double().mean()) - 183.5) < 5 * 105.7 / 4000**0.5
    # sum (label - p) has mean 0 and variance sum p (1 - p), also where it is weighted
    for weight in (torch.ones_like(prob), prob):
        excess = float((weight * (label - prob)).sum())
        assert abs(excess) < 5 * float((weight**2 * prob * (1 - prob)).sum()) ** 0.5


def test_dynamic_variables_are_linear_between_four_keyframes_up_to_noise() -> None:
    cube = make_synthetic_firecube(50, size=5, days=10, channels=(1, 1, 2), contrast=3.0)
    curve = cube["dynamic"][:, 0].double()  # keyframes at days 0, 3, 6, 9
    bend = curve[:, :-2] - 2 * curve[:, 1:-1] + curve[:, 2:]  # around days 1 .. 8
    size = bend.pow(2).mean((0, 2, 3)).sqrt()
    inside = [0, 1, 3, 4, 6, 7]
    torch.testing.assert_close(
        size[inside], torch.full((6,), 0.1 * 6**0.5, dtype=torch.float64), rtol=0.15, atol=0
    )
    assert (size[[2, 5]] > 1).all()


def test_contrast_scales_the_fields_and_not_the_noise() -> None:
    flat = make_synthetic_firecube(20, size=4, days=5, channels=(1, 1, 2), contrast=0.0)["dynamic"]
    assert float(flat.std()) == pytest.approx(0.1, rel=0.1)
    one = make_synthetic_firecube(20, size=4, days=5, channels=(1, 1, 2), contrast=1.0)["dynamic"]
    two = make_synthetic_firecube(20, size=4, days=5, channels=(1, 1, 2), contrast=2.0)["dynamic"]
    torch.testing.assert_close(two - one, one - flat, rtol=1e-4, atol=1e-5)


def test_more_knots_hide_the_product_from_the_patch_means() -> None:
    explained = {}
    for knots in (2, 4):
        cube = make_synthetic_firecube(600, size=15, days=8, season=0.0, channels=(1, 1, 6), knots=knots)
        landcover, dynamic = cube["landcover"].double(), cube["dynamic"].double()
        m = landcover[:, :3].sum(1) - landcover[:, 3:].sum(1)
        dryness = dynamic[:, 0, :3].mean(1) + 0.5
        c, product = (m * dryness).mean((1, 2)), m.mean((1, 2)) * dryness.mean((1, 2))
        explained[knots] = float(torch.corrcoef(torch.stack([c, product]))[0, 1]) ** 2
    assert explained[2] > 0.75
    assert explained[4] < 0.5


def test_generator_is_its_own() -> None:
    state = torch.get_rng_state()
    first = make_synthetic_firecube(4, 7, 5, 3, channels=(1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    again = make_synthetic_firecube(4, 7, 5, 3, channels=(1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = make_synthetic_firecube(4, 8, 5, 3, channels=(1, 1, 2))
    assert not torch.equal(first["static"], other["static"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n": 1}, "n"),
        ({"size": 0}, "size"),
        ({"days": 2}, "days"),
        ({"response": "both"}, "response"),
        ({"season": float("nan")}, "season"),
        ({"channels": (1, 1, 3)}, "channels"),
        ({"channels": (1, 1)}, "channels"),
        ({"knots": 0}, "knots"),
        ({"contrast": -1.0}, "contrast"),
    ],
)
def test_bad_arguments_are_named(options, name) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        make_synthetic_firecube(**{"n": 4, **options})


def test_min_max_scale_broadcasts_and_does_not_clip() -> None:
    a = torch.tensor([[0.0, 5.0], [10.0, 30.0]])
    lo, hi = torch.tensor([0.0, 5.0]), torch.tensor([10.0, 15.0])
    torch.testing.assert_close(min_max_scale(a, lo, hi), torch.tensor([[0.0, 0.0], [1.0, 2.5]]))
    np.testing.assert_allclose(min_max_scale(a.numpy(), lo.numpy(), hi.numpy()), [[0, 0], [1, 2.5]])
    assert min_max_scale(-5.0, 0.0, 10.0) == -0.5
