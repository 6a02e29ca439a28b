"""Layers of Orthogonal Adaptation, a model's layers replaced by them, and what is kept of them."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import (
    OrthogonalLoRAConv2d1x1,
    OrthogonalLoRALinear,
    SharedOrthogonalBasis,
    adapter_state,
    apply_orthogonal_adaptation,
    concept_basis,
)
from normviz.adapters.orthogonal_frames import FRAMES


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def base_of(dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(7, 5, bias=bias, dtype=torch.float64).to(dtype)


def tuned(layer: nn.Module) -> nn.Module:
    """The layer with another A than 0."""
    with torch.no_grad():
        layer.lora_up.copy_(randn(*layer.lora_up.shape, seed=7))
    return layer


def saved_and_loaded(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("method", FRAMES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_check_2_output_at_the_start_is_the_base(method: str, bias: bool, dtype: torch.dtype) -> None:
    base = base_of(dtype, bias).eval()
    before = copy.deepcopy(base.state_dict())
    layer = OrthogonalLoRALinear(base, 3, method=method, concept=1, seed=2, key="k")
    x = randn(4, 2, 7).to(dtype)
    assert torch.equal(layer(x), base(x))
    assert not layer.training
    assert layer.basis.dtype == layer.lora_up.dtype == dtype
    assert torch.equal(layer.basis, concept_basis(7, 3, method=method, concept=1, seed=2, key="k").to(dtype))
    assert [name for name, _ in layer.named_parameters()] == ["lora_up"]
    assert {name for name, _ in layer.named_buffers()} == {"weight", "basis", *(["bias"] if bias else [])}
    assert layer.lora_up.shape == (5, 3)
    assert not layer.lora_up.any()
    tuned(layer)
    layer.weight.zero_()
    assert all(torch.equal(base.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", FRAMES)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_checks_2_and_3_twenty_steps_with_a_token_equal_numpy(method: str, alpha: float | None) -> None:
    layer = OrthogonalLoRALinear(base_of(), 3, method=method, alpha=alpha)
    frozen = layer.basis.clone()
    token = nn.Parameter(randn(4, 7, seed=3))
    target, lr, s = randn(4, 5, seed=4), 0.02, 1.0 if alpha is None else alpha / 3
    assert layer.scaling == s
    W, b, B = (t.numpy().copy() for t in (layer.weight, layer.bias, layer.basis))
    A, X = np.zeros((5, 3)), token.detach().numpy().copy()
    optimizer = torch.optim.SGD([layer.lora_up, token], lr=lr)
    for _ in range(20):
        optimizer.zero_grad()
        ((layer(token) - target).square().sum() / 2).backward()
        optimizer.step()
        dA, dX = np.zeros_like(A), np.zeros_like(X)
        for i, x in enumerate(X):
            read = np.array([x @ column for column in B.T])
            g = W @ x + b + s * A @ read - target[i].numpy()
            dA += s * np.outer(g, read)
            dX[i] = W.T @ g + s * B @ (A.T @ g)
        A, X = A - lr * dA, X - lr * dX
    np.testing.assert_allclose(layer.lora_up.detach(), A, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(token.detach(), X, rtol=1e-10, atol=1e-12)
    assert float(layer.lora_up.detach().abs().max()) > 0.01
    assert torch.equal(layer.basis, frozen)
    assert layer.basis.grad is None
    assert not layer.basis.requires_grad
    np.testing.assert_allclose(layer.delta_weight().detach(), s * A @ B.T, rtol=1e-9, atol=1e-12)


def test_check_3_gradients_by_finite_differences() -> None:
    layer = OrthogonalLoRALinear(base_of(), 3, alpha=2.0)
    X, A = randn(4, 7).requires_grad_(), randn(5, 3, seed=2).requires_grad_()

    def output(x: Tensor, up: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"lora_up": up}, (x,))

    assert torch.autograd.gradcheck(output, (X, A))
    G = randn(4, 5, seed=3)
    (gradient,) = torch.autograd.grad(output(X, A), A, G)
    np.testing.assert_allclose(
        gradient, 2 / 3 * G.numpy().T @ (X.detach().numpy() @ layer.basis.numpy()), rtol=1e-12
    )


def test_the_layer_is_linear_in_what_is_trained() -> None:
    layer, x = OrthogonalLoRALinear(base_of(), 3), randn(4, 7)
    A, C = randn(5, 3, seed=1), randn(5, 3, seed=2)

    def change(up: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"lora_up": up}, (x,)) - base_of()(x)

    torch.testing.assert_close(change(2 * A - 3 * C), 2 * change(A) - 3 * change(C))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_check_3_merged_layer(bias: bool, dtype: torch.dtype, atol: float) -> None:
    layer = tuned(OrthogonalLoRALinear(base_of(dtype, bias), 3, alpha=6.0).eval())
    x = randn(4, 7).to(dtype)
    expected = layer(x)
    plain = layer.merge()
    assert type(plain) is nn.Linear
    assert (plain.weight.dtype, plain.training, plain.bias is None) == (dtype, False, not bias)
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=atol)
    weight = base_of(dtype).weight.detach() + 2 * layer.lora_up.detach() @ layer.basis.T
    torch.testing.assert_close(plain.weight.detach(), weight, rtol=0, atol=atol)
    with torch.no_grad():
        plain.weight.zero_()
    assert torch.equal(layer(x), expected), "the adapter is unchanged"


@pytest.mark.parametrize("method", FRAMES)
def test_check_8_ranks(method: str) -> None:
    base = nn.Linear(40, 30, dtype=torch.float64)
    deltas = [
        tuned(OrthogonalLoRALinear(base, 4, method=method, concept=i)).delta_weight().detach().numpy()
        for i in range(3)
    ]
    assert all(np.linalg.matrix_rank(D, tol=1e-9) <= 4 for D in deltas)
    assert np.linalg.matrix_rank(sum(deltas), tol=1e-9) <= 12


def test_rank_may_exceed_the_outputs() -> None:
    assert OrthogonalLoRALinear(base_of(), 7)(randn(2, 7)).shape == (2, 5)


@pytest.mark.parametrize("method", FRAMES)
def test_state_gives_the_saved_layer_whatever_the_seeds(method: str) -> None:
    saved = tuned(OrthogonalLoRALinear(base_of(), 3, method=method, concept=1, seed=1, alpha=6.0, key="a"))
    other = OrthogonalLoRALinear(base_of(), 3, concept=8, seed=9)
    assert "basis" in saved.state_dict()
    other.load_state_dict(saved_and_loaded(saved.state_dict()))
    x = randn(4, 7)
    assert torch.equal(other(x), saved(x))
    one, two = (adapter_state(nn.Sequential(layer))["0"] for layer in (saved, other))
    assert {k: v for k, v in one.items() if not isinstance(v, Tensor)} == {
        k: v for k, v in two.items() if not isinstance(v, Tensor)
    }
    assert all(torch.equal(v, two[k]) for k, v in one.items() if isinstance(v, Tensor))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"r": 0}, "r must be"),
        ({"r": 8}, "r must be"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"method": "lora"}, "'lora'"),
        ({"method": "disjoint", "concept": 3, "r": 2}, "capacity of 3"),
        ({"method": "disjoint", "concept": -1}, "concept"),
        ({"seed": None}, "seed"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    conv = nn.Conv2d(7, 5, 1)
    with pytest.raises(ValueError, match=match):
        OrthogonalLoRALinear(base_of(), **{"r": 2, **arguments})
    with pytest.raises(ValueError, match=match):
        OrthogonalLoRAConv2d1x1(conv, **{"r": 2, **arguments})


def test_errors_of_the_base() -> None:
    with pytest.raises(TypeError, match=r"nn\.Linear"):
        OrthogonalLoRALinear(nn.Conv2d(3, 3, 1), 1)
    with pytest.raises(TypeError, match=r"nn\.Conv2d"):
        OrthogonalLoRAConv2d1x1(nn.Linear(3, 3), 1)
    with pytest.raises(TypeError, match="floating"):
        OrthogonalLoRALinear(nn.Linear(3, 3, dtype=torch.complex64), 1)
    with pytest.raises(ValueError, match="1x1"):
        OrthogonalLoRAConv2d1x1(nn.Conv2d(4, 4, (1, 3)), 1)
    with pytest.raises(ValueError, match="groups"):
        OrthogonalLoRAConv2d1x1(nn.Conv2d(4, 4, 1, groups=2), 1)


# ------------------------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": (2, 1), "padding": (0, 2)},
        {"padding": "same"},
        {"padding": (1, 2), "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
    ],
)
def test_convolution_is_the_linear_layer_on_every_pixel(options: dict[str, object]) -> None:
    torch.manual_seed(2)
    base = nn.Conv2d(7, 5, 1, dtype=torch.float64, **options)
    layer = OrthogonalLoRAConv2d1x1(base, 3, concept=4, seed=1, alpha=6.0, key="k")
    x = randn(2, 7, 5, 4)
    assert torch.equal(layer(x), base(x))
    tuned(layer)
    A, B = layer.lora_up.detach().numpy(), concept_basis(7, 3, concept=4, seed=1, key="k").numpy()
    delta = 2 * A @ B.T
    np.testing.assert_allclose(layer.delta_weight().detach()[..., 0, 0], delta, rtol=1e-12, atol=1e-14)
    assert layer.delta_weight().shape == base.weight.shape

    # Responses at single pixels: with the identity as kernel the base only moves, pads and drops pixels.
    mover = nn.Conv2d(7, 7, 1, dtype=torch.float64, **{**options, "bias": False})
    with torch.no_grad():
        mover.weight.copy_(torch.eye(7)[..., None, None])
    pixels = mover(x).detach().numpy()
    expected = base(x).detach().numpy().copy()
    for image, row, column in np.ndindex(pixels.shape[0], *pixels.shape[2:]):
        expected[image, :, row, column] += delta @ pixels[image, :, row, column]
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-10, atol=1e-12)

    plain = layer.merge()
    assert type(plain) is nn.Conv2d
    assert (plain.stride, plain.padding, plain.padding_mode) == (base.stride, base.padding, base.padding_mode)
    np.testing.assert_allclose(plain(x).detach(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


# --------------------------------------------------------------------------------------- models and states


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_k = nn.Linear(8, 6)
        self.into_k = nn.Linear(6, 6)
        self.mix = nn.Conv2d(6, 4, 1)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Conv2d(6, 4, 3)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(8))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.attention = nn.MultiheadAttention(8, 2)
        self.to_k = nn.Linear(8, 8)

    def forward(self) -> Tensor:
        return sum(block.to_k(self.to_k(self.token)) for block in self.blocks)  # type: ignore[return-value]


def network() -> Network:
    torch.manual_seed(3)
    return Network().double()


def test_apply_replaces_by_tail_and_freezes_the_rest() -> None:
    model = network()
    expected = model()
    out = apply_orthogonal_adaptation(model, iter(["to_k", "blocks.1.mix"]), 2, 5, seed=1, alpha=6.0)
    assert out is model
    assert torch.equal(model(), expected)
    adapted = {"to_k", "blocks.0.to_k", "blocks.1.to_k", "blocks.1.mix"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {f"{n}.lora_up" for n in adapted}
    assert isinstance(model.blocks[1].mix, OrthogonalLoRAConv2d1x1)
    assert type(model.blocks[0].mix) is nn.Conv2d
    assert type(model.blocks[0].into_k) is nn.Linear
    for name in adapted:
        layer = model.get_submodule(name)
        expected_frame = concept_basis(layer.basis.shape[0], 2, concept=5, seed=1, key=name)
        assert torch.equal(layer.basis, expected_frame), "every layer draws by its own name"
        assert layer.scaling == 3
    model.token.requires_grad_(True)
    model().sum().backward()
    assert float(model.token.grad.abs().max()) > 0


def test_apply_keeps_a_shared_layer_one_layer_and_earlier_adapters_training() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 3))
    apply_orthogonal_adaptation(model, ["2"], 2, concept=0)
    assert model[0] is model[2]
    assert torch.equal(model[0].basis, concept_basis(4, 2, key="0").float())
    apply_orthogonal_adaptation(model, ["3"], 1, concept=0)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"0.lora_up", "3.lora_up"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"targets": ["to_k", "to_q"]}, "'to_q'"),
        ({"targets": ["o_k"]}, "'o_k'"),
        ({"targets": [""]}, "''"),
        ({"targets": []}, "targets"),
        ({"targets": "to_k"}, "targets"),
        ({"targets": ["to_k", "blocks.0.norm"]}, r"'blocks\.0\.norm'.*LayerNorm"),
        ({"targets": ["wide"]}, r"'blocks\.0\.wide'"),
        ({"targets": ["out_proj"]}, r"'attention\.out_proj'.*MultiheadAttention"),
        ({"r": 7, "targets": ["to_k", "mix"]}, r"'blocks\.0\.mix'.*r must be"),
        ({"r": 3, "method": "disjoint", "concept": 2}, r"'blocks\.0\.to_k'.*capacity of 2"),
        ({"r": 0}, "r must be"),
        ({"concept": None}, "concept"),
        ({"seed": 0.5}, "seed"),
        ({"method": "lora"}, "'lora'"),
        ({"alpha": -1.0}, "alpha"),
    ],
)
def test_apply_errors_leave_the_model_as_it_was(arguments: dict[str, object], match: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=match):
        apply_orthogonal_adaptation(model, **{"targets": ["to_k"], "r": 2, "concept": 0, **arguments})
    assert not any(isinstance(m, OrthogonalLoRALinear | OrthogonalLoRAConv2d1x1) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_apply_refuses_a_layer_that_is_adapted() -> None:
    model = apply_orthogonal_adaptation(network(), ["to_k"], 2, 0)
    with pytest.raises(ValueError, match=r"'blocks\.0\.to_k'.*OrthogonalLoRALinear"):
        apply_orthogonal_adaptation(model, ["to_k"], 2, 1)


@pytest.mark.parametrize("method", FRAMES)
def test_adapter_state(method: str) -> None:
    model = apply_orthogonal_adaptation(
        network(), ["to_k", "mix"], 2, concept=1, seed=3, method=method, alpha=1.0
    )
    assert adapter_state(network()) == {}
    for layer in model.modules():
        if hasattr(layer, "lora_up"):
            tuned(layer)
    state = saved_and_loaded(adapter_state(model))
    assert list(state) == ["blocks.0.to_k", "blocks.0.mix", "blocks.1.to_k", "blocks.1.mix", "to_k"]
    for name, entry in state.items():
        layer = model.get_submodule(name)
        assert torch.equal(entry["lora_up"], layer.lora_up)
        assert torch.equal(entry["basis"], layer.basis)
        assert not entry["lora_up"].requires_grad
        record = {key: entry[key] for key in ("method", "concept", "seed", "scaling")}
        assert record == {"method": method, "concept": 1, "seed": 3, "scaling": 0.5}
        n, columns = len(layer.basis), entry["columns"]
        if method == "gaussian":
            assert columns is None
        else:
            assert columns.dtype == torch.int64
            assert torch.equal(SharedOrthogonalBasis(3).matrix(n, name)[:, columns], entry["basis"])
    copies = adapter_state(model)
    copies["to_k"]["lora_up"].zero_()
    copies["to_k"]["basis"].zero_()
    assert torch.equal(model.to_k.lora_up, state["to_k"]["lora_up"])
    assert torch.equal(model.to_k.basis, state["to_k"]["basis"])
