import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from normviz import norms
from normviz.norms import layer_norm as module
from normviz.norms.layer_norm import (
    LayerNorm,
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLinear,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
    invariance_gaps,
    invariance_table,
    norm_statistics,
)

BACKENDS = ("reference", "manual", "torch")
CELLS = (LayerNormRNNCell, LayerNormGRUCell, LayerNormLSTMCell)
SEQUENCES = (LayerNormRNN, LayerNormGRU, LayerNormLSTM)
# torch's own tracer instantiates the Function while compiling
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int, **kwargs: object) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, **kwargs)


def randomise(layer: nn.Module) -> nn.Module:
    """Float64, every parameter random, so that no gain of 1 or bias of 0 hides a mistake."""
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer


def first(state: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return state[0] if isinstance(state, tuple) else state


# ------------------------------------------------------------------------------------------------- the layer


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "normalized"), [((5, 7), 7), ((7,), (7,)), ((2, 3, 4, 5), (4, 5)), ((2, 3, 4), (2, 3, 4))]
)
def test_equals_torch_forward_and_backward(
    backend: str, shape: tuple[int, ...], normalized: int | tuple[int, ...]
) -> None:
    layer = randomise(LayerNorm(normalized, backend=backend))
    a = randn(*shape, requires_grad=True)
    dy = randn(*shape)
    axes = (normalized,) if isinstance(normalized, int) else normalized
    expected = F.layer_norm(a, axes, layer.weight, layer.bias, 1e-5)
    inputs = (a, layer.weight, layer.bias)
    y = layer(a)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_paper_row_by_row_in_numpy(backend: str) -> None:
    layer = randomise(LayerNorm(6, eps=1e-3, backend=backend))
    a = randn(4, 6)
    g, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for row, out in zip(a.numpy(), layer(a).detach().numpy(), strict=True):
        mu = sum(row) / 6
        variance = sum((v - mu) ** 2 for v in row) / 6
        np.testing.assert_allclose(out, g * (row - mu) / np.sqrt(variance + 1e-3) + b, rtol=1e-12)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", ["reference", "manual"])
def test_gradcheck(backend: str, affine: bool, bias: bool) -> None:
    layer = randomise(LayerNorm(5, elementwise_affine=affine, bias=bias, backend=backend))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"][: affine * (1 + bias)]
    parameters = tuple(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def call(a: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (a,))

    a = randn(3, 5, requires_grad=True)
    assert torch.autograd.gradcheck(call, (a, *parameters))
    assert torch.autograd.gradgradcheck(call, (a, *parameters))


def test_manual_backward_equals_autograd() -> None:
    reference = randomise(LayerNorm(9))
    manual = LayerNorm(9, backend="manual").double()
    manual.load_state_dict(reference.state_dict())
    a, dy = randn(2, 4, 9, requires_grad=True), randn(2, 4, 9)
    wanted = torch.autograd.grad(reference(a), (a, *reference.parameters()), dy)
    given_ = torch.autograd.grad(manual(a), (a, *manual.parameters()), dy)
    for ours, theirs in zip(given_, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_state_no_batch(backend: str) -> None:
    layer = randomise(LayerNorm(6, backend=backend))
    a = randn(5, 6)
    together = layer(a)
    assert not list(layer.buffers())
    assert torch.equal(layer.eval()(a), together)
    for k in range(5):
        torch.testing.assert_close(layer(a[k : k + 1])[0], together[k], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_is_orthogonal_to_shift_and_scale(backend: str) -> None:
    layer = LayerNorm(8, eps=0.0, elementwise_affine=False, backend=backend)
    a = randn(4, 8, requires_grad=True)
    z = layer(a)
    (da,) = torch.autograd.grad(z, a, randn(4, 8))
    assert da.sum(-1).abs().max() < 1e-12
    assert (da * z).sum(-1).abs().max() < 1e-12
    assert da.abs().max() > 1e-2


@settings(max_examples=10, deadline=None)
@given(delta=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_growing_weights_lower_the_gradient(delta: float, seed: int) -> None:
    torch.manual_seed(seed)
    X, W, target = randn(6, 5), randn(7, 5), randn(6, 7)
    layer = LayerNorm(7, eps=0.0).double()

    def gradient(weights: torch.Tensor) -> torch.Tensor:
        weights = weights.clone().requires_grad_()
        loss = (layer(X @ weights.T) - target).square().sum()
        return torch.autograd.grad(loss, weights)[0]

    at_one, at_delta = gradient(W), gradient(delta * W)
    torch.testing.assert_close(at_delta, at_one / delta, rtol=1e-8, atol=1e-10 / delta)
    assert abs(float((at_one * W).sum())) < 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_single_element_gives_the_bias(backend: str, eps: float) -> None:
    with pytest.warns(UserWarning, match="single element"):
        layer = randomise(LayerNorm(1, eps, backend=backend))
    a = (1000 * randn(6, 1)).requires_grad_()
    y = layer(a)
    assert torch.equal(y, layer.bias.expand(6, 1))
    y.sum().backward()
    assert torch.equal(a.grad, torch.zeros(6, 1, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_rows_give_exactly_the_bias(backend: str, dtype: torch.dtype) -> None:
    layer = randomise(LayerNorm(64, backend=backend)).to(dtype)
    a = (
        torch.tensor([0.1, 3.7, -2718.28, 1e8, 0.0], dtype=dtype)[:, None]
        .expand(5, 64)
        .clone()
        .requires_grad_()
    )
    y = layer(a)
    torch.testing.assert_close(y, layer.bias.expand(5, 64), rtol=1e-6, atol=1e-6)
    if backend != "torch":
        assert torch.equal(y, layer.bias.expand(5, 64))
    y.pow(2).sum().backward()
    assert a.grad.isfinite().all()


def test_the_default_is_torchs_kernel() -> None:
    assert LayerNorm(4).backend == "torch"
    assert LayerNorm(4)(torch.randn(3, 4, requires_grad=True)).grad_fn.name() == "NativeLayerNormBackward0"


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend: str) -> None:
    layer = LayerNorm(4, backend=backend)
    a = torch.randn(3, 4)
    a[1, 2] = float("nan")
    y = layer(a)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_take_statistics_in_float32(backend: str, dtype: torch.dtype) -> None:
    a = (300 * torch.randn(4, 256)).to(dtype)  # squares overflow float16
    for layer in (LayerNorm(256, backend=backend), LayerNorm(256, backend=backend).to(dtype)):
        y = layer(a)
        assert y.dtype == dtype
        torch.testing.assert_close(y, F.layer_norm(a.float(), (256,)).to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_shape_dtype_and_arguments(backend: str) -> None:
    layer = LayerNorm((3, 4), backend=backend)
    for shape in ((4, 3), (4,), (), (3, 5), (2, 4)):
        with pytest.raises(ValueError, match="normalized_shape"):
            layer(torch.zeros(shape))
    for dtype in (torch.long, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="floating point"):
            layer(torch.zeros(3, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(), [], 0, (3, 0), -1, 2.0, True, (2, 2.5)])
def test_bad_normalized_shape(shape: object) -> None:
    with pytest.raises(ValueError, match="normalized_shape"):
        LayerNorm(shape)


def test_bad_eps_and_backend() -> None:
    for eps in (-1e-9, float("nan"), "small"):
        with pytest.raises(ValueError, match="eps"):
            LayerNorm(3, eps)
    with pytest.raises(ValueError, match=r"backend.*'manual'"):
        LayerNorm(3, backend="manuel")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [True, False])
def test_vmap_over_members_equals_the_loop(backend: str, shared: bool) -> None:
    members = [randomise(LayerNorm((2, 3), backend=backend)) for _ in range(3)]
    parameters = {k: v.detach() for k, v in stack_module_state(members)[0].items()}
    x = randn(4, 2, 3) if shared else randn(3, 4, 2, 3)

    def loss(x: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(members[0], parameters, (x,)).pow(3).sum()

    dx, dp = vmap(grad(loss, argnums=(0, 1)), in_dims=(None if shared else 0, 0))(x, parameters)
    for i, member in enumerate(members):
        a = (x if shared else x[i]).clone().requires_grad_()
        member(a).pow(3).sum().backward()
        torch.testing.assert_close(dx[i], a.grad)
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(dp[name][i], parameter.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_without_parameters(backend: str) -> None:
    layer = LayerNorm(3, elementwise_affine=False, backend=backend)
    x = randn(4, 2, 3)
    torch.testing.assert_close(vmap(layer)(x), layer(x))
    torch.testing.assert_close(vmap(layer, in_dims=1, out_dims=1)(x), layer(x))


@compiles
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_in_one_graph(backend: str) -> None:
    layer = randomise(LayerNorm((2, 3), backend=backend))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    a, b = (randn(4, 2, 3, requires_grad=True) for _ in range(2))
    b.data.copy_(a.data)
    torch.testing.assert_close(compiled(a), layer(b))
    compiled(a).pow(3).sum().backward()
    layer(b).pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_repr_names_the_options_and_copies_round_trip() -> None:
    layer = randomise(LayerNorm((2, 3), 1e-3, bias=False, backend="manual"))
    assert (
        repr(layer) == "LayerNorm((2, 3), eps=0.001, elementwise_affine=True, bias=False, backend='manual')"
    )
    a = randn(5, 2, 3)
    assert torch.equal(copy.deepcopy(layer)(a), layer(a))
    assert layer(torch.zeros(0, 2, 3)).shape == (0, 2, 3)


def test_norm_statistics() -> None:
    a = randn(2, 3, 4)
    mu, sigma = norm_statistics(a, 2)
    flat = a.numpy().reshape(2, 12)
    np.testing.assert_allclose(mu, flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        sigma, np.sqrt(((flat - flat.mean(1, keepdims=True)) ** 2).mean(1)), rtol=1e-12
    )
    assert norm_statistics(a)[0].shape == (2, 3)
    assert norm_statistics(torch.full((2, 8), 6e4, dtype=torch.float16))[0].dtype == torch.float32
    for ndim in (0, 4, 1.0):
        with pytest.raises(ValueError, match="ndim"):
            norm_statistics(a, ndim)
    with pytest.raises(ValueError, match="elements"):
        norm_statistics(torch.zeros(3, 0))
    with pytest.raises(TypeError, match="floating"):
        norm_statistics(torch.zeros(3, 2, dtype=torch.long))


# --------------------------------------------------------------------------------------- LayerNormLinear, table


@pytest.mark.parametrize(
    ("activation", "f"),
    [
        ("tanh", np.tanh),
        ("relu", lambda a: np.maximum(a, 0)),
        ("sigmoid", lambda a: 1 / (1 + np.exp(-a))),
        ("identity", lambda a: a),
        ("gelu", lambda a: F.gelu(torch.from_numpy(a)).numpy()),
        (torch.sin, np.sin),
    ],
)
def test_layer_norm_linear(activation: object, f: object) -> None:
    layer = randomise(LayerNormLinear(4, 6, activation))
    assert layer.linear.bias is None
    x = randn(3, 4)
    summed = x.numpy() @ layer.linear.weight.detach().numpy().T
    z = (summed - summed.mean(1, keepdims=True)) / np.sqrt(summed.var(1, keepdims=True) + 1e-5)
    expected = f(layer.norm.weight.detach().numpy() * z + layer.norm.bias.detach().numpy())
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-10, atol=1e-12)


def test_layer_norm_linear_errors() -> None:
    with pytest.raises(ValueError, match="activation"):
        LayerNormLinear(2, 3, "swish")
    with pytest.raises(TypeError, match="activation"):
        LayerNormLinear(2, 3, 5)
    with pytest.raises(ValueError, match="out_features"):
        LayerNormLinear(2, 0)


ROWS = (
    "weight_matrix_rescale",
    "weight_matrix_recenter",
    "weight_vector_rescale",
    "dataset_rescale",
    "dataset_recenter",
    "single_case_rescale",
)


def test_invariance_table_is_the_papers() -> None:
    paper = {
        "batch_norm": (True, False, True, True, True, False),
        "weight_norm": (True, False, True, False, False, False),
        "layer_norm": (True, True, False, True, False, True),
    }
    for seed in (0, 1, 2):
        table = invariance_table(seed=seed)
        assert list(table) == list(paper)
        for name, row in table.items():
            assert list(row) == list(ROWS)
            assert all(type(entry) is bool for entry in row.values())
            assert tuple(row.values()) == paper[name]


def test_invariance_gaps_measure_zero_for_the_identity_transformation() -> None:
    X, W, nothing = randn(9, 4), randn(5, 4), torch.zeros(4, dtype=torch.float64)
    gaps = invariance_gaps(X, W, delta=1.0, v=nothing, c=nothing)
    assert max(max(row.values()) for row in gaps.values()) == 0
    small, large = (invariance_gaps(X, W, delta=d, v=nothing, c=nothing)["layer_norm"] for d in (1.1, 3.0))
    assert 0 < small["weight_vector_rescale"] < large["weight_vector_rescale"]
    with pytest.raises(ValueError, match="tol"):
        invariance_table(0.0)
    with pytest.raises(ValueError, match="seed"):
        invariance_table(seed=-1)


# ----------------------------------------------------------------------------------------------------- cells


def ln(a: np.ndarray, layer: nn.Module, eps: float = 1e-5) -> np.ndarray:
    g, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return g * (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + eps) + b


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def test_rnn_cell_in_numpy() -> None:
    cell = randomise(LayerNormRNNCell(3, 4))
    x, h = randn(5, 3), randn(5, 4)
    W, U = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    expected = [np.tanh(ln(U @ hn + W @ xn, cell.ln)) for xn, hn in zip(x.numpy(), h.numpy(), strict=True)]
    np.testing.assert_allclose(cell(x, h).detach(), expected, rtol=1e-10, atol=1e-12)


def test_lstm_cell_in_numpy() -> None:
    cell = randomise(LayerNormLSTMCell(3, 4))
    x, h, c = randn(5, 3), randn(5, 4), randn(5, 4)
    new_h, new_c = cell(x, (h, c))
    W, U, bias = (p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias))
    for n in range(5):
        pre = ln(U @ h[n].numpy(), cell.ln_hh) + ln(W @ x[n].numpy(), cell.ln_ih) + bias
        i, f, g, o = pre[:4], pre[4:8], pre[8:12], pre[12:]
        cell_state = sigmoid(f) * c[n].numpy() + sigmoid(i) * np.tanh(g)
        np.testing.assert_allclose(new_c[n].detach(), cell_state, rtol=1e-10, atol=1e-12)
        expected = sigmoid(o) * np.tanh(ln(cell_state, cell.ln_cell))
        np.testing.assert_allclose(new_h[n].detach(), expected, rtol=1e-10, atol=1e-12)


def test_gru_cell_in_numpy() -> None:
    cell = randomise(LayerNormGRUCell(3, 4))
    x, h = randn(5, 3), randn(5, 4)
    new = cell(x, h)
    W, U = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    for n in range(5):
        a, r_h = W @ x[n].numpy(), U @ h[n].numpy()
        gates = sigmoid(ln(a[:8], cell.ln_ih_gates) + ln(r_h[:8], cell.ln_hh_gates))
        r, z = gates[:4], gates[4:]
        candidate = np.tanh(ln(a[8:], cell.ln_ih_new) + r * ln(r_h[8:], cell.ln_hh_new))
        np.testing.assert_allclose(
            new[n].detach(), z * h[n].numpy() + (1 - z) * candidate, rtol=1e-10, atol=1e-12
        )


def test_lstm_step_ignores_the_scale_of_x_and_of_h() -> None:
    cell = LayerNormLSTMCell(3, 4, eps=0.0).double()
    x, h, c = randn(5, 3), randn(5, 4), randn(5, 4)
    base = cell(x, (h, c))
    for scaled in (cell(7 * x, (h, c)), cell(x, (3 * h, c))):
        for ours, wanted in zip(scaled, base, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)
    assert (cell(x, (h, 3 * c))[1] - base[1]).abs().max() > 0.1


def test_lstm_carries_the_unnormalised_cell() -> None:
    cell = LayerNormLSTMCell(3, 4).double()
    with torch.no_grad():
        cell.bias[:4] = -1000.0  # i closed
        cell.bias[4:8] = 1000.0  # f open
    c = 50 * randn(5, 4)
    h, new_c = cell(randn(5, 3), (randn(5, 4), c))
    assert torch.equal(new_c, c)
    assert h.abs().max() <= 1


def test_gru_candidate_does_not_see_h_without_its_gain() -> None:
    cell = LayerNormGRUCell(3, 4).double()
    with torch.no_grad():
        cell.ln_hh_new.weight.zero_()
        cell.ln_ih_gates.bias[4:] = -1000.0  # z = 0, so that h_t is the candidate n
    x = randn(5, 3)
    assert torch.equal(cell(x, randn(5, 4)), cell(x, randn(5, 4)))
    with torch.no_grad():
        cell.ln_hh_new.weight.fill_(1.0)
    assert not torch.equal(cell(x, randn(5, 4)), cell(x, randn(5, 4)))


def test_plain_lstm_cell_is_torchs() -> None:
    ours, theirs = LayerNormLSTMCell(3, 4, normalize=False).double(), nn.LSTMCell(3, 4).double()
    assert sorted(ours.state_dict()) == ["bias", "weight_hh", "weight_ih"]
    ours.load_state_dict(
        {
            "weight_ih": theirs.weight_ih.detach(),
            "weight_hh": theirs.weight_hh.detach(),
            "bias": theirs.bias_ih.detach(),
        }
    )
    nn.init.zeros_(theirs.bias_hh)
    x, state = randn(5, 3), (randn(5, 4), randn(5, 4))
    for mine, wanted in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [(LayerNormRNNCell, nn.RNNCell), (LayerNormGRUCell, nn.GRUCell)])
def test_plain_rnn_and_gru_cells_are_torchs(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    reference = theirs(3, 4, bias=False).double()
    cell = ours(3, 4, normalize=False).double()
    cell.load_state_dict(reference.state_dict())  # the same names and nothing else
    x, h = randn(5, 3), randn(5, 4)
    torch.testing.assert_close(cell(x, h), reference(x, h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_initialisation_gate_by_gate(kind: type[nn.Module]) -> None:
    cell = kind(3, 6, init_gain=0.25)
    blocks = {LayerNormRNNCell: 1, LayerNormGRUCell: 3, LayerNormLSTMCell: 4}[kind]
    assert cell.weight_ih.shape == (6 * blocks, 3)
    for gate in cell.weight_hh.detach().split(6):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6))
    assert cell.weight_ih.abs().max() <= (6 / (3 + 6)) ** 0.5  # Xavier bound of one (6, 3) gate
    assert cell.weight_ih.abs().max() > 0.8 * (6 / (3 + 6)) ** 0.5  # the bound of the whole (6 k, 3) is lower
    state = cell.state_dict()
    gains = {k for k in state if k.startswith("ln") and k.endswith("weight")}
    biases = {k for k in state if k.endswith("bias")}
    names = {
        LayerNormRNNCell: {"ln"},
        LayerNormGRUCell: {"ln_ih_gates", "ln_hh_gates", "ln_ih_new", "ln_hh_new"},
        LayerNormLSTMCell: {"ln_ih", "ln_hh", "ln_cell"},
    }[kind]
    assert gains == {f"{name}.weight" for name in names}
    assert all(torch.equal(state[k], torch.full_like(state[k], 0.25)) for k in gains)
    assert all(torch.equal(state[k], torch.zeros_like(state[k])) for k in biases)
    assert ("bias" in biases) == (kind is LayerNormLSTMCell)


@pytest.mark.parametrize("kind", CELLS)
def test_cell_errors(kind: type[nn.Module]) -> None:
    cell = kind(3, 4)
    x, h = torch.zeros(2, 3), torch.zeros(2, 4)
    wrong = torch.zeros(2, 5)
    pair = kind is LayerNormLSTMCell
    assert first(cell(x)).shape == (2, 4)
    for bad in (torch.zeros(2, 4), torch.zeros(3), torch.zeros(1, 2, 3)):
        with pytest.raises(ValueError, match="input_size"):
            cell(bad)
    for state in (
        [(wrong, h), (h, wrong), (h, torch.zeros(1, 4)), h, (h,)]
        if pair
        else [wrong, torch.zeros(1, 4), (h, h)]
    ):
        with pytest.raises(ValueError, match="state"):
            cell(x, state)
    with pytest.raises(TypeError, match="x must be a floating"):
        cell(torch.zeros(2, 3, dtype=torch.long))
    for arguments in ((0, 4), (3, 0), (3, 4, -1.0)):
        with pytest.raises(ValueError, match=r"input_size|hidden_size|eps"):
            kind(*arguments)
    with pytest.raises(ValueError, match="init_gain"):
        kind(3, 4, init_gain=float("nan"))


# ------------------------------------------------------------------------------------------------- sequences


def stepwise(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[object]]:
    """Run the cells one step at a time, x (T, N, I)."""
    last = []
    for cell in net.cells:
        state, out = None, []
        for step in x:
            state = cell(step, state)
            out.append(first(state))
        x = torch.stack(out)
        last.append(state)
    return x, last


def stacked(state: object) -> list[torch.Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("normalize", [True, False])
def test_sequence_is_its_cells_step_by_step(kind: type[nn.Module], normalize: bool) -> None:
    net = randomise(kind(3, 4, num_layers=2, normalize=normalize))
    x = randn(5, 2, 3)
    output, state = net(x)
    expected, last = stepwise(net, x)
    torch.testing.assert_close(output, expected)
    for layer in range(2):
        for ours, wanted in zip(stacked(state), stacked(last[layer]), strict=True):
            assert ours.shape == (2, 2, 4)
            torch.testing.assert_close(ours[layer], wanted)
    batch_first = kind(3, 4, num_layers=2, batch_first=True, normalize=normalize).double()
    batch_first.load_state_dict(net.state_dict())
    output_bf, state_bf = batch_first(x.transpose(0, 1))
    torch.testing.assert_close(output_bf, output.transpose(0, 1))
    for ours, wanted in zip(stacked(state_bf), stacked(state), strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_goes_on_from_a_state(kind: type[nn.Module]) -> None:
    net = randomise(kind(3, 4, num_layers=2))
    x = randn(6, 2, 3)
    whole, end = net(x)
    start, middle = net(x[:2])
    rest, last = net(x[2:], middle)
    torch.testing.assert_close(torch.cat((start, rest)), whole)
    for ours, wanted in zip(stacked(last), stacked(end), strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("dtype", [torch.long, torch.int32])
def test_padded_steps_hold_the_state_bit_for_bit(kind: type[nn.Module], dtype: torch.dtype) -> None:
    net = randomise(kind(3, 4, num_layers=2))
    x = randn(6, 4, 3)
    lengths = torch.tensor([6, 2, 5, 1], dtype=dtype)
    output, state = net(x, lengths=lengths)
    garbage = x.clone()
    for n, length in enumerate(lengths.tolist()):
        garbage[length:, n] = 1e6
        assert torch.equal(output[length - 1 :, n], output[length - 1, n].expand(6 - length + 1, 4))
        alone, alone_state = net(x[:length, n : n + 1])
        torch.testing.assert_close(output[:length, n], alone[:, 0])
        for ours, wanted in zip(stacked(state), stacked(alone_state), strict=True):
            torch.testing.assert_close(ours[:, n], wanted[:, 0])
    output2, state2 = net(garbage, lengths=lengths)
    assert torch.equal(output2, output)
    assert all(torch.equal(a, b) for a, b in zip(stacked(state2), stacked(state), strict=True))


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_errors(kind: type[nn.Module]) -> None:
    net = kind(3, 4, num_layers=2)
    x = torch.zeros(5, 2, 3)
    for lengths in ([0, 3], [1, 6], [-1, 2], [1, 2, 3], [[1, 2]]):
        with pytest.raises(ValueError, match="lengths"):
            net(x, lengths=torch.tensor(lengths))
    for lengths in (torch.tensor([1.0, 2.0]), torch.tensor([True, True]), [1, 2]):
        with pytest.raises(TypeError, match="lengths"):
            net(x, lengths=lengths)
    for bad in (torch.zeros(5, 2, 4), torch.zeros(2, 3), torch.zeros(0, 2, 3)):
        with pytest.raises(ValueError, match="x must"):
            net(bad)
    with pytest.raises(ValueError, match="state"):
        net(x, torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="state"):
        net(x, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 5)))
    with pytest.raises(ValueError, match="num_layers"):
        kind(3, 4, 0)


@compiles
@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_compiles_and_vmaps(kind: type[nn.Module]) -> None:
    members = [randomise(kind(2, 3)) for _ in range(2)]
    x, lengths = randn(3, 2, 2), torch.tensor([3, 1])
    output, _ = members[0](x, lengths=lengths)
    compiled = torch.compile(members[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, lengths=lengths)[0], output)
    parameters = {k: v.detach() for k, v in stack_module_state(members)[0].items()}

    def loss(parameters: dict[str, torch.Tensor], lengths: torch.Tensor) -> torch.Tensor:
        return functional_call(members[0], parameters, (x,), {"lengths": lengths})[0].square().sum()

    # lengths shared (readable), then one set per member (not readable under vmap)
    shared = vmap(grad(loss), in_dims=(0, None))(parameters, lengths)
    own = vmap(grad(loss))(parameters, torch.stack((lengths, lengths)))
    for i, member in enumerate(members):
        member.zero_grad()
        loss(dict(member.named_parameters()), lengths).backward()
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(shared[name][i], parameter.grad)
            torch.testing.assert_close(own[name][i], parameter.grad)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_under_autocast_and_repr(kind: type[nn.Module]) -> None:
    net = kind(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = net(torch.randn(5, 2, 3), lengths=torch.tensor([5, 2]))
    assert output.isfinite().all()
    assert "num_layers=1, batch_first=False" in repr(net)


def test_every_name_is_exported() -> None:
    assert all(getattr(norms, name) is getattr(module, name) for name in module.__all__)
    assert set(module.__all__) <= set(norms.__all__)
