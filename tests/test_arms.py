"""Arms: names, order, looks, products, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.arms import COLOURS, DASHES, SYMBOLS, Arms, Look

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


def test_slots_without_a_mapping_count_up() -> None:
    arms = Arms.of(["x", "y"])
    assert arms.looks == (Look("x", 0, 0, 0), Look("y", 1, 1, 1))
    assert arms == Arms.of({"x": 0, "y": 1})
    assert hash(arms) == hash(Arms.of({"x": 0, "y": 1})), "charts keep specifications by their arms"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 40)))
def test_dash_and_symbol_follow_the_slot(colours: dict[str, int]) -> None:
    arms = Arms.of(colours)
    assert arms.names == tuple(colours)
    for look in arms.looks:
        slot = colours[look.name]
        assert (look.colour, look.dash, look.symbol) == (slot, slot % DASHES, slot % SYMBOLS)
    assert len({(look.colour % COLOURS, look.dash) for look in arms.looks}) == len(
        {(s % COLOURS, s % DASHES) for s in colours.values()}
    )


def test_a_product_says_the_base_by_colour_and_the_variant_by_dash() -> None:
    arms = Arms.product({"LN": 0, "BN": 1}, {"": "batch 64", ", batch 4": "batch 4"})
    assert arms.names == ("LN", "BN", "LN, batch 4", "BN, batch 4")
    assert [(look.base, look.variant) for look in arms.looks] == [
        ("LN", "batch 64"),
        ("BN", "batch 64"),
        ("LN", "batch 4"),
        ("BN", "batch 4"),
    ]
    by_base = {base: {look.colour for look in arms.looks if look.base == base} for base in ("LN", "BN")}
    assert by_base == {"LN": {0}, "BN": {1}}
    by_variant = [
        {(look.dash, look.symbol) for look in arms.looks if look.variant == v}
        for v in ("batch 64", "batch 4")
    ]
    assert [len(looks) for looks in by_variant] == [1, 1]
    assert by_variant[0] != by_variant[1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NAMES, NAMES)
def test_together_and_apart(ours: list[str], theirs: list[str]) -> None:
    one, other = Arms.of(dict.fromkeys(ours, 7)), Arms.of(dict.fromkeys(theirs, 3))
    both = one + other
    assert list(both) == [*ours, *(name for name in theirs if name not in ours)]
    assert len(both) == len(set(ours) | set(theirs))
    assert all(both[name].colour == (7 if name in ours else 3) for name in both)
    assert list(both.only(theirs)) == [name for name in both if name in theirs], "in the order of the arms"
    assert list(both.ordered(theirs)) == theirs, "in the order of the names"
    assert all((name in both) == (name in ours or name in theirs) for name in "abcdefgh")


def test_endings_keep_the_colour_and_change_the_dash() -> None:
    arms = Arms.of({"x": 2, "y": 4}).with_endings(["", ", bound"])
    assert arms.names == ("x", "x, bound", "y", "y, bound")
    assert [look.colour for look in arms.looks] == [2, 2, 4, 4]
    assert [look.dash for look in arms.looks] == [2, 3, 4, 5]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="different names, got x, x"):
        Arms((Look("x", 0, 0, 0), Look("x", 1, 1, 1)))
    with pytest.raises(KeyError, match=r"no arm 'LayrNorm'\. Nearest: LayerNorm"):
        Arms.of(["LayerNorm", "None"])["LayrNorm"]
    with pytest.raises(KeyError, match="no arm 'z'"):
        Arms.of(["x"]).ordered(["z"])
    assert len(Arms(())) == 0
