"""The page's legend: one list of arms, or two short ones where the arms are a product."""

from __future__ import annotations

from normviz.arms import Arms
from normviz.ui.legend import chosen_arms, is_product

LAYERS = {"BatchNorm": 0, "LayerNorm": 1}
PRODUCT = Arms.product(LAYERS, {", n=2": "n=2", ", n=64": "n=64"})


def test_a_product_has_two_lists_and_anything_else_has_one() -> None:
    assert is_product(PRODUCT)
    assert not is_product(Arms.of(LAYERS))
    assert not is_product(Arms.product(LAYERS, {"": "n=2"})), "one variant says nothing"
    assert not is_product(PRODUCT.only(PRODUCT.names[:3])), "one of the four is missing"
    assert not is_product(PRODUCT + Arms.of({"reference": 2})), "an arm that stands alone"


def test_a_choice_of_either_list_or_of_both() -> None:
    assert chosen_arms(PRODUCT, [], []) == []
    assert chosen_arms(PRODUCT, ["LayerNorm"], []) == ["LayerNorm, n=2", "LayerNorm, n=64"]
    assert chosen_arms(PRODUCT, [], ["n=2"]) == ["BatchNorm, n=2", "LayerNorm, n=2"]
    assert chosen_arms(PRODUCT, ["LayerNorm"], ["n=64"]) == ["LayerNorm, n=64"]
    assert chosen_arms(PRODUCT, list(LAYERS), ["n=64"]) == ["BatchNorm, n=64", "LayerNorm, n=64"]
