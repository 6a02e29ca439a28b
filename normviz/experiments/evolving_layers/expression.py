"""A found layer as simplified mathematics and as a drawing; needs no PyTorch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from normviz.figures import Figure
from normviz.figures.node_graphs import node_graph_figure
from normviz.norms import Graph, graph_to_sympy
from normviz.norms._evonorm_graph import FIRST_NODE, LEAVES
from normviz.norms._evonorm_language import AGGREGATIONS, ELEMENTWISE

if TYPE_CHECKING:
    import sympy

__all__ = ["graph_figure", "simplified", "simplified_latex"]

SMALL = 15
"""Most operations of an expression that is simplified further than sympy does by itself: it takes milliseconds."""

SUBSCRIPTS = {"bwh": "b,w,h", "whc": "w,h,c", "wh": "w,h", "whg": "w,h,c/g"}
KINDS = ("input", "trained", "arithmetic", "nonlinearity", "statistic")
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
def simplified(graph: Graph) -> sympy.Expr:
    """What sympy makes of the layer: constants folded, equal terms joined, the guards' epsilon left out."""
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
                    labels[j] = (LEAVES[j], KINDS[1] if LEAVES[j].startswith("v") else KINDS[0])
        labels = dict(sorted(labels.items()))
    described = "no layer was accepted yet" if graph is None else graph.to_formula()
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
        return op.replace("_", " "), KINDS[4]
    arithmetic = ELEMENTWISE[op] == 2 and op != "max"
    return SYMBOLS.get(op, op), KINDS[2] if arithmetic or op == "neg" else KINDS[3]
