"""Label noise: exact counts, laws, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normviz.weighting.noisy_labels import inject_instance_noise
from normviz.weighting.storm import inject_label_noise
from tests.weighting.storm_reference import generator


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 60),
    classes=st.integers(2, 6),
    rate=st.floats(0, 0.99),
    kind=st.sampled_from(["symmetric", "pair", "class_dependent", "instance"]),
    seed=st.integers(0, 10**6),
)
def test_noise_is_exact_and_never_the_true_class(
    n: int, classes: int, rate: float, kind: str, seed: int
) -> None:
    """Check 9."""
    y = torch.randint(classes, (n,), generator=generator(seed))
    x = torch.randn(n, 2, generator=generator(seed + 1))

    def flip() -> tuple[Tensor, Tensor]:
        if kind == "instance":
            return inject_instance_noise(x, y, rate, classes, generator(7))
        return inject_label_noise(y, rate, classes, kind, generator(7))

    before = y.clone()
    noisy, flipped = flip()
    assert torch.equal(y, before)
    assert int(flipped.sum()) == round(rate * n)
    assert torch.equal(flipped, noisy != y)
    assert noisy.dtype == y.dtype
    assert bool(((noisy >= 0) & (noisy < classes)).all())
    if kind == "pair":
        assert torch.equal(noisy[flipped], (y[flipped] + 1) % classes)
    assert torch.equal(flip()[0], noisy)


def test_symmetric_noise_is_uniform_over_the_others() -> None:
    y = torch.zeros(30_000, dtype=torch.long)
    noisy, flipped = inject_label_noise(y, 0.5, 4, generator=generator(0))
    counts = torch.bincount(noisy, minlength=4)
    assert counts[0] == 15_000
    assert counts[1:].tolist() == pytest.approx([5000] * 3, rel=0.05)
    assert int(flipped[:15_000].sum()) == pytest.approx(7500, rel=0.05), "a random subset"


def test_class_dependent_noise_has_one_law_per_class() -> None:
    y = torch.arange(4).repeat(5000)
    noisy, _ = inject_label_noise(y, 0.6, 4, "class_dependent", generator(3))
    table = torch.stack([torch.bincount(noisy[y == c], minlength=4) for c in range(4)]).double()
    table.fill_diagonal_(0)
    law = table / table.sum(1, keepdim=True)
    off = law[~torch.eye(4, dtype=torch.bool)].view(4, 3)
    assert float(off.std(1).min()) > 0.05, "far from uniform"
    again, _ = inject_label_noise(y, 0.6, 4, "class_dependent", generator(4))
    assert not torch.equal(noisy, again)


def test_global_generator_and_dtype() -> None:
    y = torch.zeros(10, dtype=torch.int32)
    torch.manual_seed(0)
    first = inject_label_noise(y, 0.5, 3)[0]
    second = inject_label_noise(y, 0.5, 3)[0]
    torch.manual_seed(0)
    assert torch.equal(first, inject_label_noise(y, 0.5, 3)[0])
    assert not torch.equal(first, second)
    assert first.dtype == torch.int32


def test_instance_noise_follows_resemblance() -> None:
    """Three classes on a line: what lies between two of them is flipped, and to the nearer one."""
    g = generator(0)
    y = torch.arange(3).repeat(400)
    x = 2.0 * y[:, None] + torch.randn(1200, 1, generator=g)
    noisy, flipped = inject_instance_noise(x, y, 0.2, 3, generator(1))
    nearest_other = torch.where(y == 1, torch.where(x[:, 0] > 2, 2, 0), 1)
    assert float((noisy[flipped] == nearest_other[flipped]).double().mean()) > 0.9
    depth = (x[:, 0] - 2 * y).abs()
    inward = torch.where(y == 1, depth, torch.where(y == 0, x[:, 0], 4 - x[:, 0]))
    assert float(inward[flipped].mean()) > float(inward[~flipped].mean()) + 0.3
    flat = inject_instance_noise(x, y, 0.2, 3, generator(1), sharpness=1e-9)[1]
    assert float(inward[flat].mean()) == pytest.approx(float(inward.mean()), abs=0.25)
    alone = inject_instance_noise(x[:5], torch.zeros(5, dtype=torch.long), 0.6, 3, generator(2))[0]
    assert int((alone != 0).sum()) == 3, "no other class to resemble: any of them"


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.tensor([0, 3]), {}, r"0\.\.2"),
        (torch.tensor([0, -1]), {}, r"0\.\.2"),
        (torch.tensor([0, 1]), {"rate": 1.0}, "rate"),
        (torch.tensor([0, 1]), {"rate": -0.1}, "rate"),
        (torch.tensor([0, 0]), {"num_classes": 1}, "num_classes"),
        (torch.tensor([[0, 1]]), {}, "shape"),
        (torch.tensor([0.0, 1.0]), {}, "integer"),
        (torch.tensor([0, 1]), {"kind": "pairs"}, "kind"),
    ],
)
def test_noise_refuses(y: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inject_label_noise(y, **{"rate": 0.5, "num_classes": 3, **options})
    if "kind" not in options:
        with pytest.raises(ValueError, match=message):
            inject_instance_noise(torch.zeros(len(y), 1), y, **{"rate": 0.5, "num_classes": 3, **options})


def test_instance_noise_refuses() -> None:
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="length"):
        inject_instance_noise(torch.zeros(3, 1), y, 0.5, 2)
    with pytest.raises(ValueError, match="sharpness"):
        inject_instance_noise(torch.zeros(2, 1), y, 0.5, 2, sharpness=0.0)
