import ast
import copy
import doctest
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

import normviz.norms
from normviz.norms import (
    _evonorm_evolution,
    _evonorm_export,
    _evonorm_graph,
    _evonorm_layer,
    _evonorm_render,
    evonorm_search,
    make_evonorm,
)
from normviz.norms.evonorm_search import (
    EVONORM_GRAPHS,
    PRIMITIVES,
    VERDICTS,
    Candidate,
    Event,
    EvolutionSearch,
    Graph,
    GraphLayer2d,
    Node,
    Progress,
    Proposal,
    SearchData,
    dominates,
    evaluate_norm,
    graph_to_latex,
    graph_to_python,
    graph_to_sympy,
    layer_factory,
    pareto_front,
    quality_reject,
    stability_reject,
)

EPS = 1e-5
SHAPE = (3, 4, 2, 3)
GROUPS = 2
IDENTITY = Graph([("add", (0, 1))])
CONSTANT = Graph([("tanh", (0,)), ("exp", (3,))])
SQUARE = Graph([("square", (0,))])
TOWER = Graph([("exp", (0,)), ("exp", (4,)), ("exp", (5,)), ("mul", (0, 6))])


# ---- an independent reading of the language: NumPy, float64, fed with the formula's text


def full(f):
    return lambda *a: f(*(np.broadcast_to(np.asarray(v, float), SHAPE) for v in a))


def over(f, index):
    def aggregate(a):
        out = np.empty(SHAPE)
        n, c, _, _ = SHAPE
        size = c // GROUPS
        for i in range(n):
            for j in range(c):
                first = j // size * size
                part = {"bwh": a[:, j], "whc": a[i], "wh": a[i, j], "whg": a[i, first : first + size]}[index]
                out[i, j] = f(part.ravel())
        return out

    return full(aggregate)


def np_div(a, b):
    return a / (b + np.where(b >= 0, EPS, -EPS))


NUMPY = {
    "add": full(lambda a, b: a + b),
    "mul": full(lambda a, b: a * b),
    "div": full(np_div),
    "max": full(np.maximum),
    "neg": full(lambda a: -a),
    "sigmoid": full(lambda a: 1 / (1 + np.exp(-a))),
    "tanh": full(np.tanh),
    "exp": full(np.exp),
    "abs": full(np.abs),
    "square": full(lambda a: a * a),
    "log": full(lambda a: np.sign(a) * np.log(np.abs(a) + EPS)),
    "sqrt": full(lambda a: np.sign(a) * np.sqrt(np.abs(a) + EPS)),
}
for _index in ("bwh", "whc", "wh", "whg"):
    NUMPY[f"mean_{_index}"] = over(lambda a: a.sum() / a.size, _index)
    NUMPY[f"rms_{_index}"] = over(lambda a: np.sqrt((a * a).sum() / a.size + EPS), _index)
    NUMPY[f"std_{_index}"] = over(
        lambda a: np.sqrt(((a - a.sum() / a.size) ** 2).sum() / a.size + EPS), _index
    )


def read(formula, x, v0, v1):
    with np.errstate(all="ignore"):
        leaves = {"x": x, "v0": v0.reshape(1, -1, 1, 1), "v1": v1.reshape(1, -1, 1, 1)}
        return np.broadcast_to(eval(formula, {"__builtins__": {}}, NUMPY | leaves), SHAPE)


def tensor(seed=0, shape=SHAPE, scale=1.3, shift=0.2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=g, dtype=torch.float64) * scale + shift).to(dtype)


def random_graphs(n, seed=0, **kw):
    rng = np.random.default_rng(seed)
    return [Graph.random(rng, **kw) for _ in range(n)]


def perturbed(graph, dtype=torch.float64):
    layer = GraphLayer2d(graph, SHAPE[1], GROUPS).to(dtype)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(tensor(i, p.shape, 0.3, 0.0, dtype))
    return layer


# ---- primitives


def test_there_are_24_primitives_with_their_names():
    elementwise = {
        "add",
        "mul",
        "div",
        "max",
        "neg",
        "sigmoid",
        "tanh",
        "exp",
        "log",
        "abs",
        "square",
        "sqrt",
    }
    moments = {f"{m}_{i}" for m in ("mean", "rms", "std") for i in ("bwh", "whc", "wh", "whg")}
    assert PRIMITIVES.keys() == elementwise | moments == NUMPY.keys()
    for name, primitive in PRIMITIVES.items():
        assert primitive.name == name
        assert primitive.arity == (2 if name in ("add", "mul", "div", "max") else 1)


@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_primitive_values(name):
    inputs = [tensor(i) for i in range(PRIMITIVES[name].arity)]
    inputs[0][0, 0, 0, 0] = inputs[-1][0, 1, 0, 0] = 0.0
    value = PRIMITIVES[name].fn(*inputs, eps=EPS, groups=GROUPS)
    assert value.shape == SHAPE
    np.testing.assert_allclose(value, NUMPY[name](*(a.numpy() for a in inputs)), rtol=1e-12, atol=1e-13)


def test_guards_at_zero():
    zero, one = torch.zeros(SHAPE), torch.ones(SHAPE)
    assert torch.equal(PRIMITIVES["log"].fn(zero), zero)
    assert torch.equal(PRIMITIVES["sqrt"].fn(zero), zero)
    torch.testing.assert_close(PRIMITIVES["div"].fn(one, zero), one * 1e5)
    torch.testing.assert_close(PRIMITIVES["div"].fn(one, -1e-6 * one), one / -1.1e-5)
    assert PRIMITIVES["exp"].fn(one * 1e4).isinf().all()


@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_primitives_are_twice_differentiable(name):
    inputs = tuple(tensor(i, (2, 2, 2, 1)).requires_grad_() for i in range(PRIMITIVES[name].arity))

    def f(*a):
        return PRIMITIVES[name].fn(*a, eps=1e-2, groups=GROUPS)

    assert torch.autograd.gradcheck(f, inputs)
    if name in ("mul", "div", "log", "sqrt", "sigmoid", "square", "rms_whg", "std_bwh"):
        assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_second_derivatives_are_finite_at_zero_and_for_constants(name):
    for value in (0.0, 1.0):
        a = [torch.full(SHAPE, value, requires_grad=True) for _ in range(PRIMITIVES[name].arity)]
        y = PRIMITIVES[name].fn(*a, groups=GROUPS)
        first = torch.autograd.grad(y.square().sum(), a, create_graph=True)
        n = sum(g.square().sum() for g in first)
        if n.requires_grad:
            second = torch.autograd.grad(n, a, materialize_grads=True)
            assert all(g.isfinite().all() for g in second)


# ---- graphs


def test_card_check_13_random_graphs():
    graphs = random_graphs(1000)
    x = tensor()
    for i, graph in enumerate(graphs):
        assert len(graph.nodes) == 10
        for own, (op, inputs) in enumerate(graph.nodes, 4):
            assert len(inputs) == PRIMITIVES[op].arity
            assert all(0 <= j < own for j in inputs)
        back = Graph.from_dict(json.loads(json.dumps(graph.to_dict())))
        assert back == graph
        assert back.nodes == graph.nodes
        canonical = graph.canonical()
        assert canonical == graph
        assert hash(canonical) == hash(graph)
        assert canonical.canonical().nodes == canonical.nodes
        assert canonical.to_formula() == graph.to_formula()
        if i < 100:
            a, b = GraphLayer2d(graph, 4, GROUPS).double()(x), GraphLayer2d(canonical, 4, GROUPS).double()(x)
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_card_check_13_frequencies_are_uniform():
    nodes = [(own, node) for graph in random_graphs(1000) for own, node in enumerate(graph.nodes, 4)]

    def chi2(counts, cells):
        expected = sum(counts.values()) / cells
        return sum((counts[k] - expected) ** 2 / expected for k in counts) + expected * (cells - len(counts))

    ops = Counter(node.op for _, node in nodes)
    assert ops.keys() == PRIMITIVES.keys()
    assert chi2(ops, 24) < 23 + 4 * math.sqrt(2 * 23)
    for own in (4, 8, 13):
        for arity in (1, 2):
            drawn = [node.inputs for i, node in nodes if i == own and len(node.inputs) == arity]
            cells = own**arity
            assert chi2(Counter(drawn), cells) < cells - 1 + 4 * math.sqrt(2 * (cells - 1))


def test_batch_independent_graphs():
    graphs = random_graphs(200, batch_dependent=False)
    used = {node.op for graph in graphs for node in graph.nodes}
    assert used == {name for name in PRIMITIVES if not name.endswith("bwh")}
    rng = np.random.default_rng(1)
    child = graphs[0]
    for _ in range(300):
        child = child.mutate(rng)
        assert not child.batch_dependent
        assert not any(node.op.endswith("bwh") for node in child.nodes)
    assert not child.canonical().batch_dependent
    assert not Graph.from_dict(child.to_dict()).batch_dependent


def test_card_check_10_mutation():
    rng = np.random.default_rng(0)
    graph = Graph.random(rng)
    changed, touched = 0, Counter()
    for _ in range(600):
        child = graph.mutate(rng)
        different = [i for i, (a, b) in enumerate(zip(graph.nodes, child.nodes, strict=True)) if a != b]
        assert len(different) <= 1
        changed += len(different)
        touched.update(different)
        for own, (_, inputs) in enumerate(child.nodes, 4):
            assert all(0 <= j < own for j in inputs)
        graph = child
    assert changed > 570
    assert len(touched) == 10
    assert min(touched.values()) > 30
    first = [Graph.random(np.random.default_rng(5)).mutate(np.random.default_rng(6)).nodes for _ in range(2)]
    assert first[0] == first[1]


def test_canonical_form_by_hand():
    graph = Graph([("exp", (3,)), ("neg", (0,)), ("add", (5, 4)), ("abs", (6,)), ("mul", (5, 6))])
    assert graph.canonical().nodes == (
        Node("neg", (0,)),
        Node("exp", (3,)),
        Node("add", (4, 5)),
        Node("mul", (4, 6)),
    )
    assert graph.to_formula() == "mul(neg(x), add(neg(x), exp(v1)))"
    swapped = Graph([("neg", (0,)), ("exp", (3,)), ("add", (5, 4)), ("mul", (4, 6))])
    assert swapped != graph
    reordered = Graph([("neg", (0,)), ("exp", (3,)), ("log", (2,)), ("add", (4, 5)), ("mul", (4, 7))])
    assert reordered == graph
    assert len({graph, reordered, swapped}) == 2
    assert graph != "a graph"


def test_formula_of_bn_relu_and_reading_of_x():
    formula = "max(div(add(x, neg(mean_bwh(x))), std_bwh(x)), 0)"
    assert EVONORM_GRAPHS["BN-ReLU"].to_formula() == formula
    assert EVONORM_GRAPHS["S0"].to_formula() == "div(mul(x, sigmoid(mul(v1, x))), std_whg(x))"
    assert EVONORM_GRAPHS["BN-ReLU"].depends_on_input
    assert not CONSTANT.depends_on_input
    assert Graph([("mul", (0, 1))]).depends_on_input


def test_a_deep_graph():
    nodes = [("neg", (max(i - 1, 0) if i == 4 else i - 1,)) for i in range(4, 3004)]
    graph = Graph(nodes)
    assert len(graph.canonical().nodes) == 3000
    assert hash(graph) == hash(graph.canonical())


def test_graphs_are_immutable():
    with pytest.raises(AttributeError):
        IDENTITY.nodes = ()
    copied = copy.deepcopy(EVONORM_GRAPHS["B0"])
    assert copied == EVONORM_GRAPHS["B0"]


@pytest.mark.parametrize(
    ("nodes", "batch", "message"),
    [
        ([], True, "nodes must hold at least 1 node"),
        ([("relu", (0,))], True, "op of node 4 must be one of"),
        ([("add", (0,))], True, r"'add' of node 4 takes 2 input\(s\), got 1"),
        ([("neg", (0, 1))], True, r"'neg' of node 4 takes 1 input\(s\), got 2"),
        ([("neg", (-1,))], True, r"inputs of node 4 must be an integer in \[0, 3\], got -1"),
        ([("neg", (4,))], True, r"inputs of node 4 must be an integer in \[0, 3\], got 4"),
        ([("neg", (0,)), ("abs", (6,))], True, r"inputs of node 5 must be an integer in \[0, 4\], got 6"),
        ([("neg", (0.5,))], True, "inputs of node 4 must be an integer"),
        ([("mean_bwh", (0,)), ("neg", (0,))], False, "must not use batch statistics"),
    ],
)
def test_malformed_graphs(nodes, batch, message):
    with pytest.raises(ValueError, match=message):
        Graph(nodes, batch)
    d = {"nodes": [{"op": op, "inputs": list(i)} for op, i in nodes], "batch_dependent": batch}
    with pytest.raises(ValueError, match=message):
        Graph.from_dict(d)


def test_malformed_dictionaries_and_sizes():
    for d in ({}, {"nodes": []}, {"nodes": [{"op": "neg"}], "batch_dependent": True}, {"nodes": 3}):
        with pytest.raises(ValueError, match=r"d must have the form|at least 1 node"):
            Graph.from_dict(d)
    with pytest.raises(ValueError, match="n_nodes must be an integer >= 1, got 0"):
        Graph.random(np.random.default_rng(0), 0)


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


def exported(graph, **kw):
    source = graph_to_python(graph, **kw)
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported == {"__future__", "torch"}
    namespace = {}
    exec(compile(source, "found.py", "exec"), namespace)
    return namespace[kw.get("class_name", "FoundNorm2d")]


def test_exported_code_equals_the_layer():
    graphs = list(EVONORM_GRAPHS.values()) + random_graphs(60, seed=6)
    for graph in graphs:
        ours = perturbed(graph)
        theirs = exported(graph)(4, groups=GROUPS).double()
        theirs.load_state_dict(ours.state_dict())
        for i in range(2):
            torch.testing.assert_close(theirs(tensor(i)), ours(tensor(i)), rtol=0, atol=0, equal_nan=True)
        theirs.eval()
        ours.eval()
        torch.testing.assert_close(theirs(tensor(3)), ours(tensor(3)), rtol=0, atol=0, equal_nan=True)


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


# ---- rejection


@pytest.fixture(scope="module")
def digits():
    loaded = load_digits()
    x = torch.tensor(loaded.images, dtype=torch.float32)[:, None]
    x = (x - x.mean()) / x.std()
    y = torch.tensor(loaded.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return SearchData(x[:1200], y[:1200], x[1200:1500], y[1200:1500])


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def plain(norm, c=16):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1),
        norm(c),
        nn.Conv2d(c, c, 3, 2, 1),
        norm(c),
        nn.Conv2d(c, c, 3, 2, 1),
        norm(c),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


def residual(norm, c=16):
    branches = [nn.Sequential(nn.Conv2d(c, c, 3, padding=1), norm(c)) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(1, c, 3, 2, 1),
        norm(c),
        Residual(branches[0]),
        nn.MaxPool2d(2),
        Residual(branches[1]),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


def depthwise(norm, c=16):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, 2, 1),
        norm(c),
        nn.Conv2d(c, c, 3, padding=1, groups=c),
        norm(c),
        nn.Conv2d(c, c, 1),
        norm(c),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


@pytest.mark.parametrize("name", ["BN-ReLU", "S0", "B0"])
def test_card_check_11_good_layers_pass(digits, name):
    graph = EVONORM_GRAPHS[name]
    quality = quality_reject(graph, [plain, residual, depthwise], digits, steps=30)
    assert quality.reason is None
    assert not quality.rejected
    assert quality.steps == 90
    assert len(quality.scores) == 3
    assert min(quality.scores) > 0.6
    stability = stability_reject(graph, plain, (digits.x[:32], digits.y[:32]), steps=20)
    assert stability.reason is None
    assert stability.steps == 20
    assert len(stability.norms) == 21
    assert stability.scores == ()
    assert max(stability.norms) <= 1e8


@pytest.mark.parametrize("test", ["quality", "stability"])
def test_card_check_11_a_constant_is_rejected_untrained(test, digits):
    def untouched(norm):
        raise AssertionError("built a network for a constant")

    if test == "quality":
        report = quality_reject(CONSTANT, [untouched], digits)
    else:
        report = stability_reject(CONSTANT, untouched, (digits.x[:8], digits.y[:8]))
    assert report == (True, "constant", (), (), 0)


@pytest.mark.parametrize(
    "graph", [Graph([("max", (0, 1))]), SQUARE, TOWER, Graph([("exp", (0,)), ("mul", (0, 4))])]
)
def test_card_check_12_unstable_layers(digits, graph):
    report = stability_reject(graph, plain, (digits.x[:32], digits.y[:32]), steps=20)
    assert report.reason == "stability"
    *before, last = report.norms
    assert all(n <= 1e8 for n in before)
    assert not last <= 1e8
    assert report.steps == len(before) <= 20


def test_stability_follows_the_raw_gradient_of_the_gradient_norm():
    """Against finite differences of a loss written out in NumPy."""
    x = tensor(shape=(3, 1, 1, 2))
    y = torch.tensor([0, 1, 1])
    start = {"v0": 0.0, "v1": 1.0, "weight": 1.0, "bias": 0.0}

    def anchor(norm):
        model = nn.Sequential(norm(1), nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
        with torch.no_grad():
            model[2].weight.copy_(torch.tensor([[0.5, -1.0], [0.3, 0.8]]))
        return model

    def loss(theta):  # graph: tanh(v1 * x), parameters v0, v1, weight, bias, then the matrix
        _, v1, weight, bias = theta[:4]
        h = weight * np.tanh(v1 * x.numpy().reshape(3, 2)) + bias
        logits = h @ theta[4:].reshape(2, 2).T
        return (np.log(np.exp(logits).sum(1)) - logits[np.arange(3), y.numpy()]).mean()

    def gradient(f, theta, h):
        return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])

    def norm(theta):
        return np.linalg.norm(gradient(loss, theta, 1e-5))

    theta = np.array([*start.values(), 0.5, -1.0, 0.3, 0.8])
    expected = []
    for _ in range(4):
        expected.append(norm(theta))
        theta = theta + 0.2 * gradient(norm, theta, 1e-3)
    graph = Graph([("mul", (3, 0)), ("tanh", (4,))])
    report = stability_reject(graph, anchor, (x, y), steps=3, lr=0.2)
    np.testing.assert_allclose(report.norms, expected, rtol=1e-4)
    assert report.norms[-1] > 1.1 * report.norms[0]


def test_stability_limits(digits):
    batch = (digits.x[:16], digits.y[:16])
    graph = EVONORM_GRAPHS["BN-ReLU"]
    assert len(stability_reject(graph, plain, batch, steps=0).norms) == 1
    low = stability_reject(graph, plain, batch, steps=5, max_norm=1e-3)
    assert (low.reason, low.steps, len(low.norms)) == ("stability", 0, 1)

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones(10))

        def forward(self, x):
            return (self.p * 0).expand(len(x), 10)

    still = stability_reject(graph, lambda norm: Silent(), batch, steps=5)
    assert still == (False, None, (), (0.0,), 0)


def test_quality_training_is_sgd_with_momentum():
    """All samples alike, so the drawn batch does not matter; three steps by hand."""
    x = torch.tensor([0.7, -1.2]).double().expand(6, 1, 1, 2)
    y = torch.ones(6, dtype=torch.long)

    def anchor(norm):
        return nn.Sequential(norm(1), nn.Flatten(), nn.Linear(2, 2)).double()

    torch.manual_seed(5)
    start = nn.Linear(2, 2).double()  # the layer draws nothing, so this is the anchor's own draw
    w = start.weight.detach().numpy().copy()
    b = start.bias.detach().numpy().copy()
    gain, offset, a = 1.0, 0.0, x[0].flatten().numpy()
    v = [np.zeros_like(w), np.zeros_like(b), 0.0, 0.0]
    losses = []
    for _ in range(3):
        logits = w @ (gain * a + offset) + b
        p = np.exp(logits) / np.exp(logits).sum()
        losses.append(-np.log(p[1]))
        d = p - np.array([0.0, 1.0])
        inner = w.T @ d
        g = [np.outer(d, gain * a + offset), d, inner @ a, inner.sum()]
        v = [0.9 * vi + gi for vi, gi in zip(v, g, strict=True)]
        w, b, gain, offset = (p - 0.3 * vi for p, vi in zip((w, b, gain, offset), v, strict=True))
    data = SearchData(x, y, x, y, batch_size=2)
    search = EvolutionSearch([anchor], data, steps=3, lr=0.3, seed=5, initial=[IDENTITY])
    seen = [item.value for item in search.examine() if isinstance(item, Progress) and item.stage == "quality"]
    np.testing.assert_allclose(seen, losses, rtol=1e-6)


def test_quality_stops_at_the_first_failing_anchor(digits):
    built = []

    def counting(norm):
        built.append(1)
        return depthwise(norm)

    report = quality_reject(IDENTITY, [plain, plain, counting], digits, steps=2, threshold=0.999)
    assert (report.reason, report.steps, len(report.scores)) == ("quality", 2, 1)
    assert report.scores[0] < 0.999
    assert not built
    assert quality_reject(IDENTITY, [plain], digits, steps=1, threshold=0.0).reason is None


def test_non_finite_training_and_logits(digits):
    report = quality_reject(TOWER, [plain], digits, steps=30)
    assert (report.rejected, report.reason, report.scores) == (True, "nan", ())
    assert 1 <= report.steps < 30

    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, x):
            return self.inner(x) if self.training else self.inner(x) * math.inf

    report = quality_reject(IDENTITY, [plain, lambda norm: Explodes()], digits, steps=2, threshold=0.0)
    assert (report.reason, len(report.scores), report.steps) == ("nan", 1, 4)


def test_common_random_numbers_and_the_global_state(digits):
    torch.manual_seed(11)
    before = torch.get_rng_state()

    def noisy(norm):
        return nn.Sequential(nn.Dropout(0.3), plain(norm))

    first = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0)
    torch.rand(3)
    second = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0)
    other = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0, seed=1)
    assert first == second
    assert first.scores != other.scores
    torch.manual_seed(11)
    with torch.no_grad():
        quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=2)
        stability_reject(EVONORM_GRAPHS["S0"], plain, (digits.x[:8], digits.y[:8]), steps=2)
    assert torch.equal(torch.get_rng_state(), before)

    starts = []

    def recording(norm):
        model = plain(norm)
        starts.append(model[0].weight.detach().clone())
        return model

    for name in ("S0", "BN-ReLU"):
        quality_reject(EVONORM_GRAPHS[name], [recording], digits, steps=1)
    assert torch.equal(*starts)


def test_any_norm_factory_is_scored_the_same_way(digits):
    graph = EVONORM_GRAPHS["S1"]
    by_graph = quality_reject(graph, [plain], digits, steps=10, threshold=0.0, groups=4)
    by_candidate = evaluate_norm(lambda c: Candidate(graph, (0.0,))(c, groups=4), [plain], digits, steps=10)
    assert by_candidate.scores == by_graph.scores
    published = evaluate_norm(lambda c: make_evonorm("S1", c, groups=4), [plain], digits, steps=10)
    assert abs(published.scores[0] - by_graph.scores[0]) < 0.05
    assert evaluate_norm(layer_factory(TOWER), [plain], digits, steps=20).reason == "nan"


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"lr": 0.0}, "lr must be a number > 0"),
        ({"threshold": math.nan}, "threshold must be a number"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"groups": 0}, "groups must be an integer >= 1"),
        ({"anchors": []}, "anchors must hold at least 1"),
        ({"anchors": [3]}, r"anchors\[0\] must be callable"),
    ],
)
def test_bad_quality_arguments(digits, kw, message):
    with pytest.raises(ValueError, match=message):
        quality_reject(**({"graph": IDENTITY, "anchors": [plain], "data": digits} | kw))


def test_bad_stability_arguments_and_data(digits):
    for kw in ({"steps": -1}, {"lr": 0.0}, {"max_norm": 0.0}, {"groups": 0}):
        with pytest.raises(ValueError, match=next(iter(kw))):
            stability_reject(IDENTITY, plain, (digits.x[:2], digits.y[:2]), **kw)
    for bad in (
        digits._replace(x=digits.x[:0], y=digits.y[:0]),
        digits._replace(y_val=digits.y_val[:3]),
        digits._replace(batch_size=0),
    ):
        with pytest.raises(ValueError, match=r"data\.(x|x_val|batch_size) must"):
            quality_reject(IDENTITY, [plain], bad)


# ---- Pareto

VECTORS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=8)


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_card_check_9_dominance(scores):
    front = pareto_front(scores)
    assert front == sorted(set(front))
    for i, a in enumerate(scores):
        assert not dominates(a, a)
        for b in scores:
            assert not (dominates(a, b) and dominates(b, a))
            for c in scores:
                assert dominates(a, c) or not (dominates(a, b) and dominates(b, c))
        beaten = [j for j in front if dominates(scores[j], a)]
        assert bool(beaten) == (i not in front)


def test_pareto_by_hand():
    assert dominates((1, 2), (1, 1))
    assert not dominates((1, 2), (2, 1))
    assert pareto_front([]) == []
    assert pareto_front([(1, 3), (2, 2), (1, 2), (3, 1), (2, 2)]) == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        dominates((1,), (1, 2))


# ---- evolution


def toy_data():
    x = tensor(shape=(96, 1, 4, 4), dtype=torch.float32)
    y = (x[:, 0, :2].mean((1, 2)) > x[:, 0, 2:].mean((1, 2))).long()
    return SearchData(x[:64], y[:64], x[64:], y[64:], 16)


def small(norm):
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten(), nn.Linear(16, 2))


def wide(norm):
    return nn.Sequential(nn.Conv2d(1, 6, 2), norm(6), nn.Flatten(), nn.Linear(54, 2))


TOY = {"steps": 2, "stability_steps": 2, "threshold": 0.3, "lr": 0.1, "groups": 2, "n_nodes": 5}


def toy_search(**kw):
    return EvolutionSearch([small, wide], toy_data(), **(TOY | kw))


def test_order_of_origins_and_contents_of_events():
    initial = [EVONORM_GRAPHS["BN-ReLU"], CONSTANT, TOWER, EVONORM_GRAPHS["S0"]]
    search = toy_search(initial=initial, population_size=6, seed=1)
    alive = []
    for i, event in enumerate(search.stream(60)):
        assert event.index == i
        if i < 4:
            assert (event.origin, event.graph, event.parent) == ("initial", initial[i], None)
        elif event.origin == "mutation":
            assert any(event.parent.nodes == graph.nodes for graph in alive)
            pairs = zip(event.parent.nodes, event.graph.nodes, strict=True)
            assert sum(a != b for a, b in pairs) <= 1
        else:
            assert event.origin == "random"
            assert event.parent is None
            assert len(event.graph.nodes) == 5
        assert event.verdict in VERDICTS
        assert (event.scores is None) == (event.verdict != "accepted")
        if event.scores is not None:
            assert len(event.scores) == 2
            assert min(event.scores) >= 0.3
            alive = [*alive, event.graph][-6:]
        assert [c.graph.nodes for c in search.population] == [g.nodes for g in alive]
    assert len(search.population) == 6
    assert search.history[1].verdict == "constant"
    assert search.history[2].verdict in ("nan", "stability")
    assert search.counts == {v: sum(e.verdict == v for e in search.history) for v in VERDICTS}
    assert len(search.history) == sum(search.counts.values()) == 60
    assert search.counts["constant"] > 5
    origins = Counter(e.origin for e in search.history)
    assert min(origins["random"], origins["mutation"]) > 10


def test_exploration_extremes():
    accepted = {"initial": [EVONORM_GRAPHS["BN-ReLU"]]}
    assert {e.origin for e in toy_search(exploration=1.0, **accepted).run(12)[1:]} == {"random"}
    assert {e.origin for e in toy_search(exploration=0.0, **accepted).run(12)[1:]} == {"mutation"}
    empty = toy_search(exploration=0.0, threshold=1.1)
    assert {e.origin for e in empty.run(12)} == {"random"}
    assert empty.population == ()
    assert empty.best is None
    assert empty.front == []


def test_same_seed_same_events():
    kw = {"initial": [EVONORM_GRAPHS["B0"]]}
    first, second = toy_search(seed=3, **kw).run(15), toy_search(seed=3, **kw).run(15)
    assert first == second
    assert [e.graph.nodes for e in first] == [e.graph.nodes for e in second]
    assert first != toy_search(seed=4, **kw).run(15)


def test_resumed_equals_uninterrupted():
    kw = {"initial": [EVONORM_GRAPHS["B0"], EVONORM_GRAPHS["S1"]], "population_size": 4, "seed": 2}
    whole = toy_search(**kw)
    whole.run(22)
    for at in (1, 13):
        part = toy_search(**kw)
        part.run(at)
        saved = json.loads(json.dumps(part.state_dict()))
        resumed = toy_search(**kw)
        resumed.load_state_dict(saved)
        assert resumed.state_dict() == part.state_dict()
        resumed.run(22 - at)
        assert resumed.history == whole.history
        assert [c.graph.nodes for c in resumed.population] == [c.graph.nodes for c in whole.population]
        assert resumed.state_dict() == whole.state_dict()


def test_equal_graphs_come_from_the_cache():
    built = []

    def counting(norm):
        built.append(1)
        return small(norm)

    graph = EVONORM_GRAPHS["BN-ReLU"]
    with_dead_node = Graph([("exp", (0,)), *[Node(op, shifted(i)) for op, i in graph.nodes]])
    search = EvolutionSearch(
        [counting], toy_data(), initial=[graph, with_dead_node, CONSTANT, CONSTANT], **TOY
    )
    first = search.step()
    assert first.verdict == "accepted"
    networks = len(built)
    assert networks == 2  # quality and stability
    second = search.step()
    assert (second.verdict, second.scores, len(built)) == ("accepted", first.scores, networks)
    assert second.index == 1
    assert [c.graph.nodes for c in search.population] == [graph.nodes, with_dead_node.nodes]
    assert len(search.accepted) == 1
    assert [e.verdict for e in search.run(2)] == ["constant", "constant"]


def shifted(inputs):
    return tuple(i if i < 4 else i + 1 for i in inputs)


def test_examine_shows_every_step_and_can_be_dropped():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    items = []
    for item in search.examine():
        items.append(item)
        assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(items[0], Proposal)
    assert isinstance(items[-1], Event)
    stages = [(p.stage, p.anchor, p.step) for p in items[1:-1]]
    assert stages == [
        *[("quality", j, s) for j in (0, 1) for s in (1, 2)],
        *[("stability", 0, i) for i in (0, 1, 2)],
    ]
    assert all(math.isfinite(p.value) for p in items[1:-1])

    for _ in range(3):
        next(search.examine())
    assert len(search.history) == 1
    assert [items[-1], *search.run(11)] == toy_search(initial=[EVONORM_GRAPHS["S0"]]).run(12)


def test_a_dropped_candidate_is_proposed_again():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]])
    search.step()
    while True:
        dropped = search.examine()
        proposal = next(dropped)
        if proposal.graph.depends_on_input:
            break
        list(dropped)
    next(dropped)
    dropped.close()
    count = len(search.history)
    event = search.step()
    assert len(search.history) == count + 1
    assert event.graph.nodes == proposal.graph.nodes


def test_evaluation_with_other_steps():
    graph = EVONORM_GRAPHS["BN-ReLU"]
    search = toy_search(initial=[graph], eval_steps=9)
    stages = [item.stage for item in search.examine() if isinstance(item, Progress)]
    assert stages.count("evaluation") == 18
    expected = evaluate_norm(layer_factory(graph, 2), [small, wide], toy_data(), steps=9, lr=0.1).scores
    assert search.history[0].scores == expected
    reused = toy_search(initial=[graph], eval_steps=2)
    assert [i.stage for i in reused.examine() if isinstance(i, Progress)].count("evaluation") == 0


def test_a_candidate_that_raises_is_counted_and_the_search_goes_on():
    def picky(norm):
        model = small(norm)
        if "tanh" in model[1].graph.to_formula():
            raise RuntimeError("no tanh here")
        return model

    bad = Graph([("tanh", (0,))])
    search = EvolutionSearch([small, picky], toy_data(), initial=[bad, IDENTITY, bad], **TOY)
    events = search.run(3)
    assert [e.verdict for e in events] == ["error", "accepted", "error"]
    assert search.counts["error"] == 2
    assert search.errors == {0: "RuntimeError: no tanh here", 2: "RuntimeError: no tanh here"}
    assert len(search.population) == 1
    restored = EvolutionSearch([small, picky], toy_data(), initial=[bad, IDENTITY, bad], **TOY)
    restored.load_state_dict(json.loads(json.dumps(search.state_dict())))
    assert restored.errors == search.errors


def test_anchors_that_always_raise_are_not_blamed_on_the_candidate():
    def broken(norm):
        raise RuntimeError("no network at all")

    search = EvolutionSearch([broken], toy_data(), initial=[IDENTITY], **TOY)
    with pytest.raises(RuntimeError, match="no network at all"):
        search.step()
    assert search.history == []
    assert search.counts["error"] == 0


def test_run_stops_when_the_callback_says_so():
    search = toy_search()
    seen = []
    events = search.run(20, lambda event: seen.append(event) or len(seen) < 4)
    assert events == seen == search.history
    assert len(events) == 4
    assert len(search.run(2, lambda event: None)) == 2


def with_population(scores, **kw):
    graphs = random_graphs(len(scores), seed=9)
    search = toy_search(population_size=1000, **kw)
    state = search.state_dict()
    state["population"] = [{"graph": g.to_dict(), "scores": s} for g, s in zip(graphs, scores, strict=True)]
    search.load_state_dict(json.loads(json.dumps(state)))
    return search


def winners(search, n):
    return Counter(search._tournament().scores for _ in range(n))


def test_tournament_criteria():
    scores = [[0.9, 0.1], [0.1, 0.8], [0.6, 0.5], [0.5, 0.5]]
    everyone = {"min_tournament": 10}
    average = winners(with_population(scores, criterion="average", **everyone), 30)
    assert average == {(0.6, 0.5): 30}
    pareto = winners(with_population(scores, **everyone), 600)
    assert pareto.keys() == {(0.9, 0.1), (0.1, 0.8), (0.6, 0.5)}
    assert min(pareto.values()) > 150


@pytest.mark.parametrize(
    ("kw", "size"), [({}, 5), ({"min_tournament": 9}, 9), ({"tournament_fraction": 0.2}, 20)]
)
def test_tournament_size(kw, size):
    scores = [[i / 100, i / 100] for i in range(100)]
    best = winners(with_population(scores, criterion="average", **kw), 1500)[(0.99, 0.99)]
    expected = 1500 * size / 100
    assert abs(best - expected) < 4 * math.sqrt(expected)


def test_tournament_draws_without_replacement():
    search = with_population([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], criterion="average")
    assert winners(search, 40) == {(0.3, 0.3): 40}


def test_best_front_and_candidates_as_factories():
    search = toy_search(initial=list(EVONORM_GRAPHS.values()), steps=8)
    search.run(9)
    scores = [c.scores for c in search.accepted]
    assert search.best.scores in [c.scores for c in search.front] or len(search.front) > 1
    assert max(sum(s) for s in scores) == sum(search.best.scores)
    assert [c.scores for c in search.front] == [scores[i] for i in pareto_front(scores)]
    model = small(search.best)
    assert isinstance(model[1], GraphLayer2d)
    loss = nn.functional.cross_entropy(model(toy_data().x), toy_data().y)
    loss.backward()
    assert model[1].weight.grad.abs().sum() > 0


def test_rerank():
    search = toy_search(initial=list(EVONORM_GRAPHS.values()))
    search.run(len(EVONORM_GRAPHS) + 4)
    best = sorted(search.accepted, key=lambda c: sum(c.scores), reverse=True)[:4]
    reranked = search.rerank(top=4, keep=2, factor=3)
    again = [
        evaluate_norm(layer_factory(c.graph, 2), [small, wide], toy_data(), steps=6, lr=0.1, seed=1)
        for c in best
    ]
    expected = sorted((sum(r.scores) for r in again), reverse=True)[:2]
    assert [sum(c.scores) for c in reranked] == expected
    assert {c.graph for c in reranked} <= {c.graph for c in best}
    other = toy_data()._replace(x_val=toy_data().x_val * 2)
    assert len(search.rerank(top=2, keep=5, data=other, seed=7)) == 2
    assert toy_search().rerank() == []
    for kw in ({"top": 0}, {"keep": 0}, {"factor": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(kw))):
            search.rerank(**kw)


def test_the_search_has_one_language():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]], batch_dependent=True)
    search.step()
    assert search.population[0].graph.batch_dependent
    with pytest.raises(ValueError, match="must not use batch statistics"):
        toy_search(initial=[EVONORM_GRAPHS["B0"]], batch_dependent=False)
    independent = toy_search(batch_dependent=False, initial=[EVONORM_GRAPHS["S0"]])
    for event in independent.stream(15):
        assert not any(node.op.endswith("bwh") for node in event.graph.nodes)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"criterion": "best"}, "criterion must be one of 'pareto', 'average'"),
        ({"exploration": 1.1}, r"exploration must be a number in \[0, 1\]"),
        ({"tournament_fraction": 0.0}, r"tournament_fraction must be a number in \(0, 1\]"),
        ({"population_size": 0}, "population_size must be an integer >= 1, got 0"),
        ({"min_tournament": 0}, "min_tournament must be an integer >= 1, got 0"),
        ({"n_nodes": 0}, "n_nodes must be an integer >= 1, got 0"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"eval_steps": 0}, "eval_steps must be an integer >= 1, got 0"),
        ({"stability_steps": -1}, "stability_steps must be an integer >= 0"),
        ({"stability_batch": 0}, "stability_batch must be an integer >= 1"),
        ({"lr": -1.0}, "lr must be a number > 0"),
        ({"stability_lr": 0.0}, "stability_lr must be a number > 0"),
        ({"max_norm": 0.0}, "max_norm must be a number > 0"),
        ({"groups": 0}, "groups must be an integer >= 1"),
        ({"seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_settings_too_small_to_run_are_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        toy_search(**kw)


def test_no_anchors_and_no_budget():
    with pytest.raises(ValueError, match="anchors must hold at least 1"):
        EvolutionSearch([], toy_data())
    for call in (toy_search().run, toy_search().stream):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
            call(0)
    assert len(toy_search(population_size=1, min_tournament=1).run(3)) == 3


@pytest.mark.parametrize(
    "module",
    [
        evonorm_search,
        _evonorm_evolution,
        _evonorm_export,
        _evonorm_graph,
        _evonorm_layer,
        _evonorm_render,
    ],
)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_exports():
    unexported = {"Anchor", "Progress", "Proposal", "VERDICTS"}
    for name in evonorm_search.__all__:
        assert hasattr(evonorm_search, name)
        assert name in unexported or getattr(normviz.norms, name) is getattr(evonorm_search, name)
