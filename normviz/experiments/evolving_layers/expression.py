"""A found layer as mathematics and as a drawing; needs no PyTorch.

A graph is small, but its formula need not be: a part that is read twice is written twice, and so are the parts in it.
What is long when written out gets a name for every part instead (:func:`layer_latex`), and is not simplified.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from normviz.arms import Arms
from normviz.experiments.evolving_layers.candidates import WRITTEN_OUT, formula, operations
from normviz.experiments.evolving_layers.node_graphs import node_graph_figure
from normviz.figures import Figure
from normviz.norms import (
    AGGREGATIONS,
    ELEMENTWISE,
    FIRST_NODE,
    LEAVES,
    Graph,
    Node,
    graph_to_latex,
    graph_to_sympy,
)

if TYPE_CHECKING:
    import sympy

__all__ = ["graph_figure", "layer_latex", "simplified", "simplified_latex"]

SMALL = 15
"""Most operations of an expression that is simplified further than sympy does by itself: it takes milliseconds."""

SUBSCRIPTS = {"bwh": "b,w,h", "whc": "w,h,c", "wh": "w,h", "whg": "w,h,c/g"}
INPUT, TRAINED, ARITHMETIC, NONLINEARITY, STATISTIC = (
    "input",
    "trained",
    "arithmetic",
    "nonlinearity",
    "statistic",
)
KINDS = Arms.of({INPUT: 1, TRAINED: 0, ARITHMETIC: 9, NONLINEARITY: 4, STATISTIC: 6})
SYMBOLS = {
    "add": "+",
    "mul": "×",
    "div": "÷",
    "neg": "−",
    "sigmoid": "σ",
    "square": "a²",
    "sqrt": "√",
    "abs": "|a|",
}


@lru_cache(maxsize=256)
def layer_latex(graph: Graph) -> str:
    """The layer with its gain and bias as LaTeX that KaTeX understands: in one piece, or with every part named."""
    if operations(graph) <= WRITTEN_OUT:
        return "y = " + graph_to_latex(graph, affine=True)
    names = ["x", "0", "v_0", "v_1"]
    lines = []
    for op, inputs in graph.canonical().nodes:
        lines.append(rf"a_{{{len(names)}}} &= {_one_operation(op, [names[i] for i in inputs])}")
        names.append(f"a_{{{len(names)}}}")
    lines.append(rf"y &= \gamma \, {names[-1]} + \beta")
    return r"\begin{aligned} " + r" \\ ".join(lines) + r" \end{aligned}"


def _one_operation(op: str, names: list[str]) -> str:
    """LaTeX of one operation on parts that have a name."""
    stand_ins = (0, 2)  # x and v0, which are replaced by the names
    text = graph_to_latex(Graph((Node(op, stand_ins[: len(names)]),)))
    found = dict(zip(("x", "v_0"), names, strict=False))
    return re.sub(r"(?<![A-Za-z\\])(x|v_0)(?![A-Za-z])", lambda match: found[match[1]], text)


@lru_cache(maxsize=256)
def simplified(graph: Graph) -> sympy.Expr:
    """What sympy makes of the layer: constants folded, equal terms joined, the guards' epsilon left out.

    Raises:
        ValueError: the layer has more than :data:`candidates.WRITTEN_OUT` operations when it is written out.
    """
    if (count := operations(graph)) > WRITTEN_OUT:
        raise ValueError(f"graph must have at most {WRITTEN_OUT} operations to be simplified, got {count:,}.")
    import sympy as sp

    try:
        expression = graph_to_sympy(graph, guards=False).doit()
    except ValueError:  # such as max(x, log 0): only with its guards is it a number
        expression = graph_to_sympy(graph).doit()
    if expression.has(sp.nan, sp.zoo):
        expression = graph_to_sympy(graph).doit()
    return sp.simplify(expression) if expression.count_ops() <= SMALL else expression


@lru_cache(maxsize=256)
def simplified_latex(graph: Graph) -> str:
    """The simplified layer as LaTeX that KaTeX understands, statistics with their index sets."""
    from sympy.core.function import AppliedUndef
    from sympy.printing.latex import LatexPrinter

    class Printer(LatexPrinter):  # type: ignore[misc]
        def _print_Function(self, expr: sympy.Function, exp: str | None = None) -> str:  # noqa: N802 - sympy's name
            name = expr.func.__name__
            if not isinstance(expr, AppliedUndef) or name not in AGGREGATIONS:
                text: str = super()._print_Function(expr, exp)
                return text
            short, _, index = name.partition("_")
            power = "" if exp is None else f"^{{{exp}}}"
            inner = self._print(expr.args[0])
            return rf"\operatorname{{{short}}}_{{{SUBSCRIPTS[index]}}}{power}\left({inner}\right)"

    latex: str = Printer().doprint(simplified(graph))
    return latex


def graph_figure(graph: Graph | None, caption: str, *, title: str) -> Figure:
    """The live nodes of a layer as a drawing; None: there is no layer yet."""
    labels: dict[int, tuple[str, str]] = {}
    edges: list[tuple[int, int]] = []
    if graph is not None:
        nodes = graph.canonical().nodes
        for i, (op, inputs) in enumerate(nodes, FIRST_NODE):
            labels[i] = _label(op)
            for j in dict.fromkeys(inputs):
                edges.append((j, i))
                if j < FIRST_NODE:
                    labels[j] = (LEAVES[j], TRAINED if LEAVES[j].startswith("v") else INPUT)
        labels = dict(sorted(labels.items()))
    described = "no layer was accepted yet" if graph is None else formula(graph)
    return node_graph_figure(
        labels,
        edges,
        kinds=KINDS,
        title=title,
        look_for=caption,
        alt_text=f"Computation graph of the best layer found so far: {described}.",
    )


def _label(op: str) -> tuple[str, str]:
    if op in AGGREGATIONS:
        return op.replace("_", " "), STATISTIC
    arithmetic = ELEMENTWISE[op] == 2 and op != "max"
    return SYMBOLS.get(op, op), ARITHMETIC if arithmetic or op == "neg" else NONLINEARITY
