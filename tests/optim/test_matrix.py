"""The shared parts of the matrix optimizers: groups, batches, AdamW fallback, and the splitting of a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normviz.optim import _matrix, split_matrix_params
from normviz.optim._matrix import Group, MatrixBatch, MatrixOptimizer


class SignMatrices(MatrixOptimizer):
    """The smallest subclass: sign descent for matrices, and a note of what was batched."""

    flag = "use_sign"

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        self.batches: list[tuple[int, ...]] = []
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "adam_eps": 1e-8}
        super().__init__(params, defaults)

    def check_group(self, group: Mapping[str, Any]) -> None:
        _matrix.check_rates(group["lr"], group["weight_decay"])
        _matrix.check_adam(group["betas"], group["adam_eps"])

    def matrix_step(self, group: Group, batch: MatrixBatch) -> None:
        self.batches.append(tuple(batch.G.shape))
        decay = 1 - group["lr"] * group["weight_decay"]
        _matrix.add_to_parameters(batch.params, batch.G.sign(), -group["lr"], decay)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i)) for i, shape in enumerate(shapes)]


def set_gradients(params: list[nn.Parameter], step: int = 0) -> None:
    for i, p in enumerate(params):
        p.grad = gaussian(*p.shape, seed=100 + 10 * step + i)


def test_equal_shapes_are_one_batch_and_kernels_are_flattened() -> None:
    params = parameters((4, 6), (6, 4), (4, 6), (4, 2, 3), (3,), (4, 6))
    before = [p.detach().clone() for p in params]
    set_gradients(params)
    params[2].grad = None
    optimizer = SignMatrices(params, weight_decay=0.5)
    optimizer.step()
    assert optimizer.batches == [(3, 4, 6), (1, 6, 4)]
    for p, b in zip(params, before, strict=True):
        if p.grad is None:
            assert torch.equal(p.detach(), b)
        elif p.ndim >= 2:
            torch.testing.assert_close(p.detach(), 0.95 * b - 0.1 * p.grad.sign(), rtol=0, atol=1e-12)


def test_batches_do_not_mix_dtypes() -> None:
    p, q = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    assert [batch.params for batch in _matrix.matrix_batches([p, q])] == [[p], [q]]


@pytest.mark.parametrize(("entries", "sizes"), [(1, [1, 1, 1, 1]), (12, [2, 2]), (20, [3, 1]), (99, [4])])
def test_batches_on_the_cpu_are_bounded(entries: int, sizes: list[int]) -> None:
    params = [nn.Parameter(torch.full((2, 3), float(i))) for i in range(4)]
    for p in params:
        p.grad = -p.detach()
    batches = list(_matrix.matrix_batches(params, cpu_entries=entries))
    assert [len(batch.params) for batch in batches] == sizes
    assert [float(p.detach()[0, 0]) for batch in batches for p in batch.params] == [0.0, 1.0, 2.0, 3.0]
    assert torch.equal(torch.cat([batch.G for batch in batches]), -torch.stack(params).detach())


@pytest.mark.parametrize(
    "layout", ["transposed weight", "transposed gradient", "expanded gradient", "strided"]
)
def test_fallback_respects_strides(layout: str) -> None:
    def build() -> nn.Parameter:
        weight, gradient = gaussian(4, 6), gaussian(4, 6) + 0.1
        if layout == "transposed weight":
            weight = weight.mT.contiguous().mT
        elif layout == "strided":
            weight = torch.stack([weight, weight], -1)[..., 0]
        elif layout == "transposed gradient":
            gradient = gradient.mT.contiguous().mT
        else:
            gradient = gradient[:1].expand(4, 6)
        p = nn.Parameter(weight)
        p.grad = gradient
        return p

    ours, theirs = build(), build()
    optimizer = SignMatrices([{"params": [ours], "use_sign": False}])
    adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0, foreach=False)
    for _ in range(3):
        optimizer.step()
        adam.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-12)


def test_transposed_memory_is_updated_in_place() -> None:
    weight = gaussian(6, 4)
    p = nn.Parameter(weight.mT)  # (4, 6), not contiguous
    address = p.data_ptr()
    p.grad = torch.ones_like(p)
    SignMatrices([p], lr=1.0).step()
    assert p.data_ptr() == address
    torch.testing.assert_close(p.detach(), gaussian(6, 4).mT - 1)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_fallback_equals_torchs_adamw(weight_decay: float) -> None:
    ours, theirs = parameters((3,), (4, 5), (2, 2, 2)), parameters((3,), (4, 5), (2, 2, 2))
    optimizer = SignMatrices(
        [{"params": ours, "use_sign": False, "weight_decay": weight_decay}], weight_decay=7.0
    )
    adam = torch.optim.AdamW(theirs, lr=0.1, weight_decay=weight_decay)
    for step in range(6):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        if step in (1, 2):  # bias corrections then differ between parameters
            ours[1].grad = theirs[1].grad = None
        optimizer.step()
        adam.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)
        for key, value in adam.state[q].items():
            torch.testing.assert_close(optimizer.state[p][key], value, rtol=0, atol=1e-12)


def test_constructor_decay_is_for_matrices_only() -> None:
    def decayed(groups: Any) -> list[bool]:
        optimizer = SignMatrices(groups, weight_decay=0.5)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p in params:
            p.grad = torch.zeros_like(p)
        before = [p.detach().clone() for p in params]
        optimizer.step()
        return [not torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True)]

    assert decayed(parameters((3, 3), (3,))) == [True, False]
    matrix, other = parameters((3, 3), (3, 3))
    groups = [{"params": [matrix], "use_sign": True}, {"params": [other], "use_sign": False}]
    assert decayed(groups) == [True, False]
    matrix, other = parameters((3, 3), (3, 3))
    assert decayed([{"params": [matrix]}, {"params": [other], "use_sign": False, "weight_decay": 0.1}]) == [
        True,
        True,
    ]


def test_groups_are_copied() -> None:
    group: Group = {"params": (p for p in parameters((3, 3)))}
    optimizer = SignMatrices([group])
    assert "lr" not in group
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_group_is_checked_before_it_is_added() -> None:
    optimizer = SignMatrices(parameters((3, 3)))
    for bad in (
        {"lr": -1.0},
        {"use_sign": True},
        {"use_sign": 1},
        {"betas": (0.9,)},
        {"adam_eps": float("inf")},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            optimizer.add_param_group({"params": parameters((3,)), **bad})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="set"):
        optimizer.add_param_group({"params": set(parameters((3, 3)))})


def test_closure_sees_gradients_enabled_and_its_loss_is_returned() -> None:
    (p,) = parameters((3, 3))

    def closure() -> float:
        assert torch.is_grad_enabled()
        p.grad = None
        loss: Any = p.square().sum()
        loss.backward()
        return float(loss.detach())

    expected = float(p.detach().square().sum())
    assert SignMatrices([p]).step(closure) == pytest.approx(expected)
    assert SignMatrices([p]).step() is None


def test_unusual_gradients_are_refused_before_anything_changes() -> None:
    good, bad = parameters((3, 3), (3,))
    before = good.detach().clone()
    good.grad = torch.ones_like(good)
    bad.grad = torch.ones(3, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match=r"SignMatrices.*sparse"):
        SignMatrices([good, bad]).step()
    assert torch.equal(good.detach(), before)


def test_compiled_step_equals_the_eager_one() -> None:
    eager, compiled = parameters((3, 4), (3, 4), (5,)), parameters((3, 4), (3, 4), (5,))
    first, second = SignMatrices(eager), SignMatrices(compiled)
    step = torch.compile(second.step, backend="aot_eager")
    for i in range(2):
        set_gradients(eager, i)
        set_gradients(compiled, i)
        first.step()
        step()
    for p, q in zip(eager, compiled, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_small_helpers() -> None:
    kernel = gaussian(4, 2, 3, 5)
    assert _matrix.matrix_shape(kernel) == (4, 30)
    assert torch.equal(_matrix.as_matrix(kernel)[1, 7], kernel[1, 0, 1, 2])
    assert _matrix.at_least_float32(torch.ones(1).half()).dtype == torch.float32
    assert _matrix.at_least_float32(torch.ones(1).double()).dtype == torch.float64
    a, b = parameters((2, 2), (2,))
    assert _matrix.tensors_of([("a", a), ("b", b)]) == [a, b]
    assert _matrix.tensors_of(a) == [a]
    with pytest.raises(ValueError, match="axes"):
        _matrix.check_matrix("X", torch.ones(3))


# -------------------------------------------------------------------------------------- split_matrix_params


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 4)
        self.bags = nn.EmbeddingBag(5, 4)
        self.PosEmbedding = nn.Linear(4, 4, bias=False)
        self.conv = nn.Conv1d(2, 3, 5)
        self.body = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 11, bias=False)
        self.output.weight = self.tokens.weight
        self.again = self.body
        self.lm_Head = nn.Linear(4, 2)


def names(model: nn.Module, group: Group) -> list[str]:
    return [name for name, p in model.named_parameters() if any(p is q for q in group["params"])]


def test_split_sends_only_inner_weights_to_the_matrix_step() -> None:
    model = Model()
    matrices, rest = split_matrix_params(model)
    assert names(model, matrices) == ["conv.weight", "body.weight"]
    assert names(model, rest) == [
        "tokens.weight",
        "bags.weight",
        "PosEmbedding.weight",
        "conv.bias",
        "body.bias",
        "norm.weight",
        "norm.bias",
        "lm_Head.weight",
        "lm_Head.bias",
    ]
    for group, value in ((matrices, True), (rest, False)):
        assert {key: group[key] for key in group if key != "params"} == {
            "use_sinkgd": value,
            "use_swan": value,
            "use_muon": value,
            "use_soap": value,
        }


def test_split_takes_other_words() -> None:
    model = Model()
    matrices, _ = split_matrix_params(model, exclude=("BODY",))
    assert names(model, matrices) == ["PosEmbedding.weight", "conv.weight", "lm_Head.weight"]
    # Under either of its two names.
    matrices, _ = split_matrix_params(model, exclude=("again",))
    assert "body.weight" not in names(model, matrices)
    matrices, _ = split_matrix_params(model, exclude=())
    assert "tokens.weight" not in names(model, matrices)


def test_split_of_a_model_without_matrices_has_an_empty_first_group() -> None:
    matrices, rest = split_matrix_params(nn.LayerNorm(3))
    assert (len(matrices["params"]), len(rest["params"])) == (0, 2)
    SignMatrices([matrices, rest])


@pytest.mark.parametrize("exclude", ["head", [1]])
def test_split_refuses_other_excludes(exclude: Any) -> None:
    with pytest.raises(ValueError, match="exclude"):
        split_matrix_params(nn.Linear(2, 2), exclude=exclude)


def test_optimizer_copies() -> None:
    model = Model()
    optimizer = SignMatrices(split_matrix_params(copy.deepcopy(model)))
    assert len(copy.deepcopy(optimizer).param_groups) == 2
