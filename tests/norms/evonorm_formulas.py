"""An independent reading of EvoNorm's language: NumPy in float64, fed with the formula's text."""

import ast

import numpy as np
import torch

from normviz.norms.evonorm_search import Graph, GraphLayer2d, graph_to_python

EPS = 1e-5
SHAPE = (3, 4, 2, 3)
GROUPS = 2
IDENTITY = Graph([("add", (0, 1))])
CONSTANT = Graph([("tanh", (0,)), ("exp", (3,))])
SQUARE = Graph([("square", (0,))])
TOWER = Graph([("exp", (0,)), ("exp", (4,)), ("exp", (5,)), ("mul", (0, 6))])


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
