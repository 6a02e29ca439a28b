"""Several adapters in one model: sums, averages and least squares against NumPy, and what may not be merged."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import (
    LoRALinear,
    adapter_state,
    apply_orthogonal_adaptation,
    concept_basis,
    merge_adapters,
)
from normviz.models import FiLMDenoiser


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def entry(
    out: int, n: int, r: int, concept: int, method: str = "orthogonal", **changes: Any
) -> dict[str, Any]:
    """What a concept hands over of one layer, with a random A."""
    return {
        "lora_up": randn(out, r, seed=50 + concept),
        "basis": concept_basis(n, r, method=method, concept=concept),
        "method": method,
        "concept": concept,
        "seed": 0,
        "scaling": 1.0,
        **changes,
    }


def delta(e: dict[str, Any]) -> np.ndarray:
    A, B = e["lora_up"].numpy(), e["basis"].numpy()
    return e.get("scaling", 1.0) * sum(np.outer(A[:, k], B[:, k]) for k in range(A.shape[1]))


def base_state() -> dict[str, Tensor]:
    return {
        "k.weight": randn(5, 12, seed=1),
        "k.bias": randn(5, seed=2),
        "mix.weight": randn(4, 6, 1, 1, seed=3),
        "other": torch.arange(3),
    }


def concepts(count: int = 3, **changes: Any) -> list[dict[str, dict[str, Any]]]:
    return [
        {"k": entry(5, 12, 2, i, scaling=0.5 + i, **changes), "mix": entry(4, 6, 1, i, **changes)}
        for i in range(count)
    ]


def assert_untouched(before: Any, after: Any) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, dict):
            assert_untouched(value, after[key])
        elif isinstance(value, Tensor):
            assert torch.equal(value, after[key])
        else:
            assert value == after[key]


@pytest.mark.parametrize(
    ("method", "weights", "scales"),
    [
        ("sum", None, [1, 1, 1]),
        ("sum", [0.5, -1.0, 2.0], [0.5, -1, 2]),
        ("fedavg", None, [1 / 3] * 3),
        ("fedavg", torch.tensor([1.0, 2.0, 5.0]), [1 / 8, 2 / 8, 5 / 8]),
        ("fedavg", np.array([-1.0, 2.0, 1.0]), [-0.5, 1, 0.5]),
    ],
)
def test_sums_and_averages_equal_numpy(method: str, weights: Any, scales: list[float]) -> None:
    base, adapters = base_state(), concepts()
    before = copy.deepcopy(base), copy.deepcopy(adapters)
    merged = merge_adapters(base, adapters, method, weights)
    assert list(merged) == list(base)
    for layer in ("k", "mix"):
        change = sum(s * delta(a[layer]) for s, a in zip(scales, adapters, strict=True))
        theta = base[f"{layer}.weight"].numpy()
        np.testing.assert_allclose(merged[f"{layer}.weight"], theta + change.reshape(theta.shape), atol=1e-12)
    for name in ("k.bias", "other"):
        assert torch.equal(merged[name], base[name])
        merged[name].zero_()
    assert_untouched(before[0], base)
    for old, new in zip(before[1], adapters, strict=True):
        assert_untouched(old, new)


def test_dtypes_are_those_of_the_base() -> None:
    base = {**base_state(), "mix.weight": base_state()["mix.weight"].bfloat16()}
    merged = merge_adapters(base, concepts())
    assert {k: v.dtype for k, v in merged.items()} == {k: v.dtype for k, v in base.items()}
    exact = base["mix.weight"].double().numpy()[..., 0, 0] + sum(delta(a["mix"]) for a in concepts())
    assert torch.equal(merged["mix.weight"][..., 0, 0], torch.tensor(exact).bfloat16()), (
        "rounded once, at the end"
    )


def test_check_6_sum_does_not_depend_on_the_order() -> None:
    adapters = concepts()
    first = merge_adapters(base_state(), adapters)
    for order in permutations(adapters):
        torch.testing.assert_close(merge_adapters(base_state(), order), first, rtol=0, atol=1e-12)


def test_check_6_a_concept_is_removed_by_subtraction() -> None:
    adapters = concepts()
    everyone, without = merge_adapters(base_state(), adapters), merge_adapters(base_state(), adapters[:2])
    left = everyone["k.weight"].numpy() - delta(adapters[2]["k"])
    np.testing.assert_allclose(left, without["k.weight"], rtol=0, atol=1e-12)


def test_check_6_average_of_one_is_the_sum() -> None:
    adapters = concepts(1)
    for weights in (None, [7.0]):
        torch.testing.assert_close(
            merge_adapters(base_state(), adapters, "fedavg", weights), merge_adapters(base_state(), adapters)
        )


def test_check_8_ranks_of_the_sum() -> None:
    base, adapters = {"k.weight": randn(20, 30)}, [{"k": entry(20, 30, 3, i)} for i in range(4)]
    change = merge_adapters(base, adapters)["k.weight"] - base["k.weight"]
    assert np.linalg.matrix_rank(change.numpy(), tol=1e-9) <= 12


def test_one_adapter_is_the_tuned_model_and_ranks_may_differ() -> None:
    torch.manual_seed(0)
    base = FiLMDenoiser(2, [7, 6], token_features=16, time_features=4)
    x, t, token = torch.randn(8, 2), torch.arange(8), torch.randn(16)
    models, states = [], []
    for concept, r in ((1, 2), (2, 3)):
        model = apply_orthogonal_adaptation(copy.deepcopy(base), ["film"], r, concept)
        for block in model.blocks:
            nn.init.normal_(block["film"].lora_up)
        models.append(model)
        states.append(adapter_state(model))
    alone, both = copy.deepcopy(base), copy.deepcopy(base)
    alone.load_state_dict(merge_adapters(base.state_dict(), states[:1]))
    torch.testing.assert_close(alone(x, t, token), models[0](x, t, token), rtol=1e-4, atol=1e-5)
    both.load_state_dict(merge_adapters(base.state_dict(), states))
    for i, block in enumerate(both.blocks):
        expected = base.blocks[i]["film"].weight + sum(m.blocks[i]["film"].delta_weight() for m in models)
        torch.testing.assert_close(block["film"].weight, expected, rtol=1e-5, atol=1e-5)
    root = apply_orthogonal_adaptation(nn.Sequential(nn.Linear(4, 3)), ["0"], 2, 0)[0]
    nn.init.normal_(root.lora_up)
    plain = {"weight": root.weight, "bias": root.bias}
    torch.testing.assert_close(
        merge_adapters(plain, [adapter_state(root)])["weight"], root.merge().weight.detach()
    )


def test_ordinary_lora_merges_by_the_same_function() -> None:
    base = nn.Linear(6, 5)
    layers = [LoRALinear(base, 2, alpha=6.0) for _ in range(2)]
    for layer in layers:
        nn.init.normal_(layer.lora_B)
    entries = [
        {"k": {"lora_up": layer.lora_B, "basis": layer.lora_A.mT, "scaling": layer.scaling}}
        for layer in layers
    ]
    merged = merge_adapters({"k.weight": base.weight}, entries)["k.weight"]
    expected = base.weight + layers[0].delta_weight() + layers[1].delta_weight()
    torch.testing.assert_close(merged, expected.detach(), rtol=1e-5, atol=1e-6)
    assert not merged.requires_grad
    bare = {"k": {"lora_up": torch.ones(5, 2), "basis": torch.ones(6, 2)}}
    zero = {"k.weight": torch.zeros(5, 6)}
    assert torch.equal(merge_adapters(zero, [bare, bare])["k.weight"], torch.full((5, 6), 4.0))


# ----------------------------------------------------------------------------------------- gradient fusion


def fusion_problem(rows: tuple[int, ...], n: int = 12) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
    """A base [5, n], adapters of it and ``rows[i]`` inputs of concept i."""
    adapters = [{"k": entry(5, n, 2, i)} for i in range(len(rows))]
    inputs = [{"k": randn(count, n, seed=70 + i)} for i, count in enumerate(rows)]
    return {"k.weight": randn(5, n, seed=1)}, adapters, inputs


@pytest.mark.parametrize("rows", [(40, 30), (3, 4), (2, 2, 30)])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, -1.0]])
def test_closed_form_equals_its_formula(rows: tuple[int, ...], weights: list[float] | None) -> None:
    base, adapters, inputs = fusion_problem(rows)
    lam = [1.0] * len(rows) if weights is None else weights[: len(rows)]
    merged = merge_adapters(
        base, adapters, "gradient_fusion", None if weights is None else lam, inputs, "closed_form"
    )["k.weight"].numpy()
    top, gram = np.zeros((5, 12)), np.zeros((12, 12))
    for scale, a, given in zip(lam, adapters, inputs, strict=True):
        C = sum(np.outer(x, x) for x in given["k"].numpy())
        top, gram = top + scale * delta(a["k"]) @ C, gram + C
    expected = base["k.weight"].numpy() + top @ np.linalg.pinv(gram, rcond=1e-12)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-8)
    # At a minimum of the squared error no direction of W lowers it.
    slope = sum(
        (merged - base["k.weight"].numpy() - scale * delta(a["k"]))
        @ given["k"].numpy().T
        @ given["k"].numpy()
        for scale, a, given in zip(lam, adapters, inputs, strict=True)
    )
    assert np.abs(slope).max() < 1e-9


def test_check_7_no_residual_with_few_inputs() -> None:
    base, adapters, inputs = fusion_problem((3, 4))
    for solver in ("lbfgs", "closed_form"):
        merged = merge_adapters(base, adapters, "gradient_fusion", None, inputs, solver, iters=200)[
            "k.weight"
        ]
        for a, given in zip(adapters, inputs, strict=True):
            wanted = base["k.weight"].numpy() + delta(a["k"])
            residual = given["k"].numpy() @ (wanted - merged.numpy()).T
            assert np.abs(residual).max() < 1e-6


@pytest.mark.parametrize("solver", ["lbfgs", "closed_form"])
def test_check_7_disjoint_inputs_give_the_sum(solver: str) -> None:
    adapters = [{"k": entry(5, 12, 2, i, "disjoint")} for i in range(3)]
    inputs = [{"k": randn(9, 2, seed=i) @ a["k"]["basis"].mT} for i, a in enumerate(adapters)]
    base = {"k.weight": randn(5, 12, seed=1)}
    fused = merge_adapters(base, adapters, "gradient_fusion", None, inputs, solver, iters=100)["k.weight"]
    torch.testing.assert_close(fused, merge_adapters(base, adapters)["k.weight"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [(40, 30), (3, 4)])
def test_check_7_lbfgs_reaches_the_closed_form(rows: tuple[int, ...]) -> None:
    base, adapters, inputs = fusion_problem(rows)
    exact = merge_adapters(base, adapters, "gradient_fusion", None, inputs, "closed_form", iters=1)
    errors = {
        iters: float((merge_adapters(base, adapters, "gradient_fusion", None, inputs, iters=iters)["k.weight"]
                      - exact["k.weight"]).abs().max())
        for iters in (2, 50, 200)
    }  # fmt: skip
    assert errors[200] < 1e-5
    assert errors[2] > 1e-3, "iters decides how far it gets"
    default = merge_adapters(base, adapters, "gradient_fusion", inputs=inputs)
    assert float((default["k.weight"] - exact["k.weight"]).abs().max()) == pytest.approx(errors[50], abs=1e-9)


def test_fusion_starts_from_the_base_and_leaves_unseen_directions() -> None:
    base, adapters, inputs = fusion_problem((3, 4))
    unseen = np.linalg.svd(torch.cat([x["k"] for x in inputs]).numpy())[2][7:]
    for solver in ("lbfgs", "closed_form"):
        merged = merge_adapters(base, adapters, "gradient_fusion", None, inputs, solver)["k.weight"]
        assert np.abs((merged - base["k.weight"]).numpy() @ unseen.T).max() < 1e-9


def test_fusion_of_convolutions_without_gradients_and_in_float32() -> None:
    base = {"mix.weight": base_state()["mix.weight"].float()}
    adapters = [{"mix": a["mix"]} for a in concepts(2)]
    inputs = [{"mix": randn(9, 6, seed=i).float()} for i in range(2)]
    with torch.inference_mode():
        results = [
            merge_adapters(base, adapters, "gradient_fusion", None, inputs, solver)["mix.weight"].clone()
            for solver in ("lbfgs", "closed_form")
        ]
    assert results[0].shape == (4, 6, 1, 1)
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)


def test_fusion_ignores_directions_that_are_rounding() -> None:
    """Inputs of rank 3 stay of rank 3 in float32: their rounding errors do not become directions to fit."""
    adapters = [{"k": entry(5, 12, 2, i)} for i in range(2)]
    shared = randn(3, 12, seed=5)
    exact = [{"k": randn(30, 3, seed=i) @ shared} for i in range(2)]
    rounded = [{"k": x["k"].float()} for x in exact]
    base = {"k.weight": randn(5, 12, seed=1)}
    results = [
        merge_adapters(base, adapters, "gradient_fusion", None, inputs, "closed_form")["k.weight"]
        for inputs in (exact, rounded)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)


def test_fusion_without_anything_to_fit() -> None:
    base, adapters, inputs = fusion_problem((5, 5))
    for a in adapters:
        a["k"]["lora_up"].zero_()
    for solver in ("lbfgs", "closed_form"):
        assert torch.equal(
            merge_adapters(base, adapters, "gradient_fusion", None, inputs, solver)["k.weight"],
            base["k.weight"],
        )


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"adapters": []}, "adapters"),
        ({"adapters": concepts(1)[0]}, "adapters"),
        ({"adapters": [{}]}, "adapters"),
        ({"method": "mean"}, "'mean'"),
        ({"solver": "adam"}, "'adam'"),
        ({"iters": 0}, "iters"),
        ({"weights": [1.0]}, "weights"),
        ({"weights": [1.0, float("nan")]}, r"weights\[1\]"),
        ({"weights": [1.0, float("inf")], "method": "fedavg"}, "weights"),
        ({"weights": [1.0, -1.0], "method": "fedavg"}, "weights must not sum to 0"),
        ({"weights": 0.5}, "weights"),
        ({"weights": ["a", 1.0]}, "weights"),
        ({"method": "gradient_fusion"}, "inputs"),
        ({"method": "gradient_fusion", "inputs": [{"k": randn(3, 12)}]}, "inputs"),
        ({"method": "gradient_fusion", "inputs": [{"k": randn(3, 12)}] * 2}, r"inputs\[0\].*'mix'"),
        (
            {"method": "gradient_fusion", "inputs": [{"k": randn(3, 12), "mix": randn(3, 7)}] * 2},
            r"inputs\[0\]\['mix'\]",
        ),
        (
            {"method": "gradient_fusion", "inputs": [{"k": randn(3, 12), "mix": randn(3, 6) / 0}] * 2},
            r"inputs\[0\]\['mix'\] must be finite",
        ),
    ],
)
def test_errors_of_the_call(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        merge_adapters(**{"base_state": base_state(), "adapters": concepts(2), **arguments})


@pytest.mark.parametrize(
    ("second", "match"),
    [
        ({"k": entry(5, 12, 2, 1)}, "'mix'"),
        ({**concepts(2)[1], "v": entry(5, 12, 2, 1)}, "'v'"),
        ({**concepts(2)[1], "k": entry(5, 11, 2, 1)}, "'k'.*basis"),
        ({**concepts(2)[1], "mix": entry(3, 6, 1, 1)}, "'mix'.*lora_up"),
        ({**concepts(2)[1], "k": entry(5, 12, 2, 1, basis=randn(12, 3))}, "'k'.*one rank"),
        ({**concepts(2)[1], "k": {"lora_up": randn(5, 2)}}, "'k'.*basis is missing"),
    ],
)
def test_adapters_that_do_not_fit_are_refused_by_layer(second: dict[str, Any], match: str) -> None:
    for adapters in ([concepts(2)[0], second], [second, concepts(2)[0]]):
        with pytest.raises(ValueError, match=match):
            merge_adapters(base_state(), adapters)


def test_a_base_that_does_not_fit_is_refused_by_layer() -> None:
    adapters = [{"k": entry(5, 12, 2, 0)}]
    for base, match in (
        ({"v.weight": randn(5, 12)}, "'k'.*base_state"),
        ({"k.weight": randn(5, 11)}, "'k'"),
        ({"k.weight": randn(5, 12, 3, 3)}, "'k'"),
        ({"k.weight": randn(5, 12, 1)}, "'k'"),
    ):
        with pytest.raises(ValueError, match=match):
            merge_adapters(base, adapters)
    with pytest.raises(TypeError, match="floating"):
        merge_adapters({"k.weight": torch.ones(5, 12).long()}, adapters)


@pytest.mark.parametrize("methods", [("orthogonal", "orthogonal"), ("orthogonal", "disjoint")])
def test_different_shared_matrices_are_refused(methods: tuple[str, str]) -> None:
    base = {"k.weight": randn(5, 12)}
    adapters = [{"k": entry(5, 12, 2, i, method, seed=i)} for i, method in enumerate(methods)]
    with pytest.raises(ValueError, match="seed"):
        merge_adapters(base, adapters, allow_same=True)
    free = [{"k": entry(5, 12, 2, i, "gaussian", seed=i)} for i in range(2)]
    for accepted in (free, [free[0], adapters[1]]):
        assert merge_adapters(base, accepted)["k.weight"].isfinite().all()
    del adapters[0]["k"]["seed"]
    assert merge_adapters(base, adapters)["k.weight"].isfinite().all(), "no check without a record"


@pytest.mark.parametrize("method", ["orthogonal", "gaussian", "disjoint"])
def test_the_same_frame_twice_is_refused_unless_asked_for(method: str) -> None:
    base = {"k.weight": randn(5, 12)}
    first, again = ({"k": entry(5, 12, 2, 1, method)} for _ in range(2))
    with pytest.raises(ValueError, match="same frame: interference is certain"):
        merge_adapters(base, [first, {"k": entry(5, 12, 2, 3, method)}, again])
    merged = merge_adapters(base, [first, again], allow_same=True)["k.weight"]
    np.testing.assert_allclose(merged, base["k.weight"].numpy() + 2 * delta(first["k"]), atol=1e-12)
    for name in ("method", "seed", "concept"):
        unknown = {"k": {key: value for key, value in again["k"].items() if key != name}}
        torch.testing.assert_close(merge_adapters(base, [first, unknown])["k.weight"], merged)
    other_rank = {"k": entry(5, 12, 3, 1, method)}
    assert merge_adapters(base, [first, other_rank])["k.weight"].isfinite().all(), "not the same frame"
