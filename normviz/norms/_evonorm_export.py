r"""A searched graph as a Python file of its own that needs nothing but torch."""

from __future__ import annotations

import ast
import keyword
from functools import lru_cache
from pathlib import Path

from normviz.norms._evonorm_graph import FIRST_NODE, Graph
from normviz.norms._evonorm_language import AGGREGATIONS, buffer_name, is_batch_op
from normviz.validation import check_integer, check_real

__all__ = ["graph_to_python"]

HELPERS = {"div": "guarded_div", "log": "signed_log", "sqrt": "signed_sqrt"}
"""Guarded operations -> their functions in :mod:`normviz.norms._evonorm_primitives`."""
EXPRESSIONS = {
    "add": "{0} + {1}",
    "mul": "{0} * {1}",
    "div": "guarded_div({0}, {1}, self.eps)",
    "max": "torch.maximum({0}, {1})",
    "neg": "-{0}",
    "sigmoid": "{0}.sigmoid()",
    "tanh": "{0}.tanh()",
    "exp": "{0}.exp()",
    "log": "signed_log({0}, self.eps)",
    "abs": "{0}.abs()",
    "square": "{0}.square()",
    "sqrt": "signed_sqrt({0}, self.eps)",
}

HEADER = '''\
"""A normalization-activation layer found by evolution, y = weight * f(x) + bias.

f(x) = {formula}
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
'''

BATCH_MOMENT = '''
    def batch_moment(self, kind: str, a: Tensor, running: Tensor) -> Tensor:
        """Moment of the batch in training, updating its running value; the running value in evaluation."""
        if not self.training:
            return running.view(1, -1, 1, 1).to(a.dtype)
        n = a.shape[0] * a.shape[2] * a.shape[3]
        if kind == "variance" and n == 1:
            raise ValueError(f"N*H*W must exceed 1 in training, got shape {tuple(a.shape)}.")
        m = moment(kind, a, "bwh")
        with torch.no_grad():
            new = m.detach().flatten() * (n / (n - 1) if kind == "variance" else 1.0)
            running.copy_((1 - self.momentum) * running + self.momentum * new)
        return m
'''


PARAMETERS = {"v0": "zeros", "v1": "ones", "weight": "ones", "bias": "zeros"}

CLASS_HEAD = '''

class {name}(nn.Module):
    """y = weight * f(x) + bias on (N, C, H, W); replaces normalization and activation."""

    def __init__(
        self, num_features: int, groups: int = {groups}, eps: float = {eps!r}, momentum: float = {momentum!r}
    ) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.momentum = momentum
'''

FORWARD_HEAD = '''
    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to (N, C, H, W)."""
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
'''

FORWARD_TAIL = """\
        y = self.weight.view(1, -1, 1, 1) * {output} + self.bias.view(1, -1, 1, 1)
        return y.to(input.dtype)
"""


def graph_to_python(
    graph: Graph,
    class_name: str = "FoundNorm2d",
    *,
    groups: int = 8,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> str:
    """Source of a Python module that defines the layer and imports only torch.

    The class takes ``(num_features, groups, eps, momentum)`` with the values given here as defaults. Its state has
    the keys of :class:`GraphLayer2d`, so a trained layer's ``state_dict`` loads into it. One line per live node;
    the guards are the library's own functions, copied into the file.

    Args:
        graph: the candidate.
        class_name: name of the class in the file.
        groups: default of the class for the ``*_whg`` aggregations.
        eps: default of the class.
        momentum: default of the class.

    Raises:
        ValueError: ``class_name`` is not a Python identifier, or is a keyword; groups < 1, eps < 0, momentum outside
            [0, 1].

    Example:
        >>> source = graph_to_python(Graph([("max", (0, 1))]), "Rectifier")
        >>> namespace = {}
        >>> exec(source, namespace)
        >>> import torch
        >>> namespace["Rectifier"](2)(torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)).flatten().tolist()
        [0.0, 2.0]
    """
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        raise ValueError(f"class_name must be a Python identifier, got {class_name!r}.")
    check_integer("groups", groups, 1)
    check_real("eps", eps, 0)
    check_real("momentum", momentum, 0, 1)

    nodes = graph.canonical().nodes
    ops = [node.op for node in nodes]
    functions = [f for op, f in HELPERS.items() if op in ops]
    if any(op in AGGREGATIONS for op in ops):
        functions.insert(0, "moment")

    names = ["x", "zeros", "v0", "v1"] + [f"n{i}" for i, _ in enumerate(nodes, FIRST_NODE)]
    used = {i for node in nodes for i in node.inputs}
    leaves = {1: "torch.zeros_like(x)", 2: _per_channel("v0"), 3: _per_channel("v1")}
    body = [f"{names[i]} = {text}" for i, text in leaves.items() if i in used]
    for i, (op, inputs) in enumerate(nodes, FIRST_NODE):
        body.append(f"{names[i]} = {_expression(i, op, [names[j] for j in inputs])}")

    init = [f"self.{name} = nn.Parameter(torch.{fill}(num_features))" for name, fill in PARAMETERS.items()]
    for i, op in enumerate(ops, FIRST_NODE):
        if is_batch_op(op):
            fill = "zeros" if op == "mean_bwh" else "ones"
            init.append(f'self.register_buffer("{buffer_name(i, op)}", torch.{fill}(num_features))')
    if any(op.endswith("_whg") for op in ops):
        init.insert(0, "if num_features % groups:")
        init.insert(1, '    raise ValueError(f"groups must divide {num_features}, got {groups}.")')

    parts = [HEADER.format(formula=graph.to_formula())]
    parts += [f"\n\n{_source(f)}\n" for f in functions]
    parts.append(CLASS_HEAD.format(name=class_name, groups=groups, eps=eps, momentum=momentum))
    parts += [f"        {line}\n" for line in init]
    parts.append(FORWARD_HEAD)
    parts += [f"        {line}\n" for line in body]
    parts.append(FORWARD_TAIL.format(output=names[-1]))
    if any(is_batch_op(op) for op in ops):
        parts.append(BATCH_MOMENT)
    return "".join(parts)


@lru_cache(maxsize=8)
def _source(function: str) -> str:
    """Text of a function beside this file, read without importing it: exporting needs no torch."""
    text = Path(__file__).with_name("_evonorm_primitives.py").read_text(encoding="utf-8")
    found = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == function)
    source = ast.get_source_segment(text, found)
    assert source is not None
    return source


def _per_channel(parameter: str) -> str:
    return f"self.{parameter}.view(1, -1, 1, 1).to(x.dtype).expand_as(x)"


def _expression(node_id: int, op: str, inputs: list[str]) -> str:
    if op not in AGGREGATIONS:
        return EXPRESSIONS[op].format(*inputs)
    (a,) = inputs
    kind, index = AGGREGATIONS[op]
    if is_batch_op(op):
        value = f'self.batch_moment("{kind}", {a}, self.{buffer_name(node_id, op)})'
    else:
        value = f'moment("{kind}", {a}, "{index}", self.groups)'
    if kind != "mean":
        value = f"({value} + self.eps).sqrt()"
    return f"{value}.expand_as(x)"
