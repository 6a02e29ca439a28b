"""An EvoNorm graph as a layer, as mathematics and as exported code."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch
from torch import nn

from normviz.norms import make_evonorm
from normviz.norms.evonorm_search import (
    EVONORM_GRAPHS,
    Graph,
    GraphLayer2d,
    graph_to_latex,
    graph_to_python,
    graph_to_sympy,
    layer_factory,
)
from tests.norms.evonorm_formulas import (
    EPS,
    GROUPS,
    IDENTITY,
    NUMPY,
    SHAPE,
    exported,
    perturbed,
    random_graphs,
    read,
    tensor,
)

# ---- the graph as a layer


def test_random_graphs_equal_the_formula_read_by_numpy():
    compared = 0
    x = tensor()
    for graph in random_graphs(150, seed=2):
        layer = perturbed(graph)
        p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
        value = read(graph.to_formula(), x.numpy(), p["v0"], p["v1"])
        with np.errstate(all="ignore"):
            expected = p["weight"].reshape(1, -1, 1, 1) * value + p["bias"].reshape(1, -1, 1, 1)
        if np.isfinite(expected).all() and np.abs(expected).max() < 1e6:
            np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-7, atol=1e-9)
            compared += 1
    assert compared > 120


@pytest.mark.parametrize("kind", ["B0", "B2", "S0", "S1", "S2"])
def test_card_check_8_published_layers(kind):
    x = tensor(shape=(8, 8, 4, 4), dtype=torch.float32)
    graph = GraphLayer2d(EVONORM_GRAPHS[kind], 8, groups=4)
    direct = make_evonorm(kind, 8, **({"groups": 4} if kind[0] == "S" else {}))
    for _ in range(3):
        torch.testing.assert_close(graph(x), direct(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(graph.eval()(x), direct.eval()(x), rtol=1e-3, atol=1e-3)


def test_card_check_8_bn_relu_and_gn_silu():
    graph = GraphLayer2d(EVONORM_GRAPHS["BN-ReLU"], 8)
    bn = nn.Sequential(nn.BatchNorm2d(8, affine=False), nn.ReLU())
    for i in range(4):
        x = tensor(i, (8, 8, 4, 4), 1 + i, i, torch.float32)
        torch.testing.assert_close(graph(x), bn(x), rtol=1e-4, atol=1e-4)
    graph.eval()
    bn.eval()
    torch.testing.assert_close(graph(x), bn(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(graph.running_mean_bwh_4, bn[0].running_mean)
    torch.testing.assert_close(graph.running_std_bwh_7, bn[0].running_var)
    gn = GraphLayer2d(EVONORM_GRAPHS["GN-SiLU"], 8, groups=4)
    expected = nn.functional.silu(nn.functional.group_norm(x, 4))
    torch.testing.assert_close(gn(x), expected, rtol=1e-4, atol=1e-4)


def test_running_mean_square_and_ignored_argument():
    layer = GraphLayer2d(
        Graph([("neg", (0,)), ("rms_bwh", (4,)), ("tanh", (5,)), ("div", (0, 5))]), 4
    ).double()
    assert dict(layer.named_buffers()).keys() == {"running_rms_bwh_5"}
    x = tensor()
    layer(x)
    expected = 0.9 + 0.1 * (x.numpy() ** 2).mean((0, 2, 3))
    np.testing.assert_allclose(layer.running_rms_bwh_5, expected, rtol=1e-13)
    layer.eval()
    y = layer(x[:1])
    root = np.sqrt(expected + EPS).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(y.detach(), x[:1].numpy() / (root + EPS), rtol=1e-12)
    np.testing.assert_allclose(layer.running_rms_bwh_5, expected, rtol=1e-13)


def test_dead_batch_nodes_own_no_buffer_and_parameters_always_exist():
    layer = GraphLayer2d(Graph([("std_bwh", (0,)), ("mean_whg", (0,)), ("neg", (0,))]), 3, groups=2)
    assert dict(layer.named_buffers()) == {}
    assert [n for n, _ in layer.named_parameters()] == ["v0", "v1", "weight", "bias"]
    assert torch.equal(layer.v0, torch.zeros(3))
    assert torch.equal(layer.v1, torch.ones(3))
    assert torch.equal(layer(torch.ones(2, 3, 2, 2)), -torch.ones(2, 3, 2, 2))


def test_layer_errors():
    with pytest.raises(ValueError, match="groups must divide num_features = 6, got 4"):
        GraphLayer2d(EVONORM_GRAPHS["S0"], 6, groups=4)
    assert layer_factory(EVONORM_GRAPHS["S0"], groups=4)(6).groups == 2
    for kw, message in [
        ({"num_features": 0}, "num_features"),
        ({"num_features": 4, "groups": 0}, "groups"),
        ({"num_features": 4, "eps": -1.0}, "eps"),
        ({"num_features": 4, "momentum": 2.0}, "momentum"),
    ]:
        with pytest.raises(ValueError, match=message):
            GraphLayer2d(IDENTITY, **kw)
    layer = GraphLayer2d(EVONORM_GRAPHS["BN-ReLU"], 4)
    with pytest.raises(ValueError, match=r"\(N, 4, H, W\), got \(2, 3, 2, 2\)"):
        layer(torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match=r"got \(2, 4\)"):
        layer(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="floating"):
        layer(torch.zeros(2, 4, 2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"N\*H\*W > 1 in training"):
        layer(torch.zeros(1, 4, 1, 1))
    assert layer.eval()(torch.zeros(1, 4, 1, 1)).isfinite().all()


def test_layer_gradients():
    layer = perturbed(EVONORM_GRAPHS["B0"])
    x = tensor().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("kind", ["S0", "BN-ReLU"])
def test_layer_under_vmap_compile_half_and_state(kind):
    layers = [perturbed(EVONORM_GRAPHS[kind]) for _ in range(2)]
    with torch.no_grad():
        layers[1].v1.add_(1)
    x = torch.stack([tensor(0), tensor(1)])
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(p, b, x):
        return torch.func.functional_call(layers[0], (p, b), (x,))

    expected = torch.stack([copy.deepcopy(m)(xi) for m, xi in zip(layers, x, strict=True)])
    torch.testing.assert_close(torch.vmap(call)(parameters, buffers, x), expected)
    compiled = torch.compile(copy.deepcopy(layers[0]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[0]), expected[0])

    half = perturbed(EVONORM_GRAPHS[kind], torch.float32)
    z = (x[0] * 200).half()
    y = copy.deepcopy(half)(z)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, copy.deepcopy(half)(z.float()).half())

    layers[0](x[0])
    fresh = GraphLayer2d(EVONORM_GRAPHS[kind], 4, GROUPS).double()
    fresh.load_state_dict(layers[0].state_dict())
    assert torch.equal(fresh.eval()(x[1]), layers[0].eval()(x[1]))


# ---- as mathematics and as code


def test_latex_by_hand():
    assert graph_to_latex(EVONORM_GRAPHS["BN-ReLU"]) == (
        r"\max\left(\frac{x - \mu_{b,w,h}\left(x\right)}{\sqrt{s^2_{b,w,h}\left(x\right) + \epsilon}}, 0\right)"
    )
    assert graph_to_latex(EVONORM_GRAPHS["S2"], affine=True) == (
        r"\gamma \, \frac{x \, \sigma\left(x\right)}{\sqrt{\mu_{w,h,c/g}\left(x^2\right) + \epsilon}} + \beta"
    )
    product_of_sums = Graph(
        [("add", (0, 2)), ("neg", (3,)), ("mul", (4, 5)), ("square", (6,)), ("square", (7,))]
    )
    assert graph_to_latex(product_of_sums) == (
        r"\left(\left(\left(x + v_0\right) \, \left(-v_1\right)\right)^2\right)^2"
    )
    assert graph_to_latex(Graph([("add", (0, 2))]), affine=True) == r"\gamma \left(x + v_0\right) + \beta"


def test_latex_of_random_graphs_is_balanced():
    for graph in random_graphs(200, seed=4):
        text = graph_to_latex(graph, affine=True)
        assert text.count("{") == text.count("}")
        assert text.count(r"\left") == text.count(r"\right")
        assert text.count("(") == text.count(")")


def test_sympy_expression_equals_the_formula():
    symbols = (*sympy.symbols("x v0 v1", real=True), sympy.Symbol("epsilon", positive=True))
    x, v0, v1 = tensor().numpy(), tensor(1, (4,)).numpy(), tensor(2, (4,)).numpy()
    compared = 0
    for graph in random_graphs(120, seed=5, n_nodes=6):
        f = sympy.lambdify(symbols, graph_to_sympy(graph), modules=[NUMPY_CALLS, "numpy"])
        with np.errstate(all="ignore"):
            value = f(x, v0.reshape(1, -1, 1, 1), v1.reshape(1, -1, 1, 1), EPS)
        expected = read(graph.to_formula(), x, v0, v1)
        if np.isfinite(expected).all() and np.abs(expected).max() < 1e6:
            np.testing.assert_allclose(np.broadcast_to(value, SHAPE), expected, rtol=1e-7, atol=1e-9)
            compared += 1
    assert compared > 100


NUMPY_CALLS = {name: f for name, f in NUMPY.items() if "_" in name}


def test_sympy_without_guards_is_for_reading():
    x, v1 = sympy.symbols("x v1", real=True)
    std = sympy.Function("std_whg", real=True)
    expected = x / (1 + sympy.exp(-v1 * x)) / std(x)
    assert sympy.simplify(graph_to_sympy(EVONORM_GRAPHS["S0"], guards=False).doit() - expected) == 0
    swish = sympy.diff(graph_to_sympy(Graph([("sigmoid", (0,)), ("mul", (0, 4))])).doit(), x)
    assert swish.subs(x, 0) == sympy.Rational(1, 2)


def test_exported_code_equals_the_layer():
    graphs = list(EVONORM_GRAPHS.values()) + random_graphs(60, seed=6)
    for graph in graphs:
        ours = perturbed(graph)
        theirs = exported(graph)(4, groups=GROUPS).double()
        theirs.load_state_dict(ours.state_dict())
        for i in range(2):
            torch.testing.assert_close(theirs(tensor(i)), ours(tensor(i)), equal_nan=True)
        theirs.eval()
        ours.eval()
        torch.testing.assert_close(theirs(tensor(3)), ours(tensor(3)), equal_nan=True)


def test_exported_defaults_name_and_errors():
    cls = exported(EVONORM_GRAPHS["S0"], class_name="Mine", groups=4, eps=0.5, momentum=0.25)
    layer = cls(8)
    assert (layer.groups, layer.eps, layer.momentum) == (4, 0.5, 0.25)
    with pytest.raises(ValueError, match="groups must divide 6, got 4"):
        cls(6)
    with pytest.raises(ValueError, match=r"N\*H\*W must exceed 1"):
        exported(EVONORM_GRAPHS["BN-ReLU"])(4)(torch.zeros(1, 4, 1, 1))
    half = exported(EVONORM_GRAPHS["B0"])(4)(tensor().half())
    assert half.dtype == torch.float16
    for name in ("class", "two words", ""):
        with pytest.raises(ValueError, match="class_name must be a Python identifier"):
            graph_to_python(IDENTITY, name)
    with pytest.raises(ValueError, match="groups"):
        graph_to_python(IDENTITY, groups=0)


def test_exported_file_runs_with_torch_alone(tmp_path):
    script = graph_to_python(EVONORM_GRAPHS["BN-ReLU"]) + (
        "\n\nlayer = FoundNorm2d(3)\n"
        "x = torch.arange(24.0).reshape(2, 3, 2, 2)\n"
        "layer(x).sum().backward()\n"
        "assert layer.weight.grad is not None\n"
        "print(layer.eval()(x).shape)\n"
    )
    path = tmp_path / "found.py"
    path.write_text(script)
    alone = f"import runpy, sys; sys.modules['normviz'] = None; runpy.run_path({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", alone], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([2, 3, 2, 2])"
