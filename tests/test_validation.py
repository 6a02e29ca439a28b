from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from normviz.validation import check_choice, check_integer, check_real, missing_extra, nearest


def test_nearest() -> None:
    assert nearest("layr", ["layer", "batch", "LayerNorm"])[0] == "layer"
    assert nearest("LAYER", ["layer", "batch"]) == ["layer"]
    assert nearest("zzz", ["layer", "batch"]) == []
    assert len(nearest("aaaa", [f"aaa{i}" for i in range(9)])) == 3


def test_choice() -> None:
    assert check_choice("mode", "sum", ("sum", "mean")) == "sum"
    with pytest.raises(
        ValueError, match=r"mode must be one of 'sum', 'mean', got 'men'\. Did you mean 'mean'\?"
    ):
        check_choice("mode", "men", ("sum", "mean"))
    for value in (None, 3, ["sum"], "zzz"):
        with pytest.raises(ValueError, match="mode must be one of 'sum', 'mean', got") as caught:
            check_choice("mode", value, ("sum", "mean"))
        assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1), Fraction(1, 3)])
def test_real_numbers(value: float) -> None:
    checked = check_real("p", value, 0.0, 1.0)
    assert type(checked) is float
    assert checked == float(value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None, 1j, np.array([0.5])])
def test_no_real_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"p must be a number in \[0, 1\], got"):
        check_real("p", value, 0.0, 1.0)


@pytest.mark.parametrize(
    ("bounds", "value", "words"),
    [
        ({"low": 0.0, "low_open": True}, 0.0, r"> 0, got 0\.0"),
        ({"low": 0.0}, -1.0, r">= 0, got -1\.0"),
        ({"high": 2.0}, 3.0, r"<= 2, got 3\.0"),
        ({"high": 2.0, "high_open": True}, 2.0, r"< 2, got 2\.0"),
        ({"low": 0.0, "high": 1.0, "low_open": True}, 0.0, r"in \(0, 1\], got"),
        ({"low": 0.0, "high": 1.0, "high_open": True}, 1.0, r"in \[0, 1\), got"),
    ],
)
def test_open_and_closed_bounds(bounds: dict[str, float], value: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_real("x", value, **bounds)  # type: ignore[arg-type]


def test_infinities_are_inside_closed_infinite_bounds_only() -> None:
    assert check_real("x", math.inf) == math.inf
    with pytest.raises(ValueError, match="x must be a number"):
        check_real("x", math.inf, high_open=True)
    with pytest.raises(ValueError, match="x must be a number"):
        check_real("x", math.nan)


def test_integers() -> None:
    assert check_integer("n", 3, 1) == 3
    assert type(check_integer("n", np.int32(3), 1)) is int
    for value in (0, 3.0, "3", True, None):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got"):
            check_integer("n", value, 1)
    with pytest.raises(ValueError, match=r"n must be an integer in \[1, 5\], got 6"):
        check_integer("n", 6, 1, 5)


def test_missing_extra_says_what_to_install() -> None:
    assert missing_extra("app", "math", "json") == ""
    assert missing_extra("app", "math", "no_such_a") == (
        "no_such_a is not installed: pip install 'normviz[app]'."
    )
    assert missing_extra("data", "no_such_a", "no_such_b").startswith(
        "no_such_a, no_such_b are not installed: "
    )
