"""EvoNorm's primitives and graphs: values, random graphs, mutation, canonical form, refusals."""

import copy
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from normviz.norms.evonorm_search import EVONORM_GRAPHS, PRIMITIVES, Graph, GraphLayer2d, Node
from tests.norms.evonorm_formulas import CONSTANT, EPS, GROUPS, IDENTITY, NUMPY, SHAPE, random_graphs, tensor

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
