r"""A searched graph as mathematics: LaTeX for the reader, a sympy expression for symbolic work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normviz.norms._evonorm_graph import FIRST_NODE, Graph
from normviz.norms._evonorm_language import AGGREGATIONS

if TYPE_CHECKING:
    import sympy

__all__ = ["graph_to_latex", "graph_to_sympy"]

# How tightly the outermost operation of a piece of LaTeX binds.
SUM, PRODUCT, POWER, ATOM = range(4)

SUBSCRIPTS = {"bwh": "b,w,h", "whc": "w,h,c", "wh": "w,h", "whg": "w,h,c/g"}
FUNCTIONS = {
    "sigmoid": r"\sigma",
    "tanh": r"\tanh",
    "exp": r"\exp",
    "log": r"\ln_{\pm}",
}


def graph_to_latex(graph: Graph, *, affine: bool = False) -> str:
    r"""LaTeX of the layer in the paper's notation, understood by KaTeX.

    Only live nodes appear; a node used twice is written twice. Index sets: b batch, w and h space, c channels, c/g a
    group of channels. ``\ln_{\pm} a`` stands for sign(a) ln(\|a\|+eps) and ``\sqrt[\pm]{a}`` for
    sign(a) sqrt(\|a\|+eps); the eps that keeps a fraction's denominator away from zero is not written.

    Args:
        graph: the candidate.
        affine: wrap as ``\gamma (...) + \beta``; False.

    Example:
        >>> print(graph_to_latex(Graph([("std_bwh", (0,)), ("div", (0, 4)), ("max", (5, 1))])))
        \max\left(\frac{x}{\sqrt{s^2_{b,w,h}\left(x\right) + \epsilon}}, 0\right)
    """
    pieces = [("x", ATOM), ("0", ATOM), ("v_0", ATOM), ("v_1", ATOM)]
    for op, inputs in graph.canonical().nodes:
        pieces.append(_latex_of(op, [pieces[i] for i in inputs]))
    text, level = pieces[-1]
    if not affine:
        return text
    return rf"\gamma \, {text} + \beta" if level > SUM else rf"\gamma \left({text}\right) + \beta"


def _latex_of(op: str, inputs: list[tuple[str, int]]) -> tuple[str, int]:
    def wrap(piece: tuple[str, int], least: int) -> str:
        text, level = piece
        return text if level >= least else rf"\left({text}\right)"

    a = inputs[0]
    if op == "add":
        second = inputs[1][0]
        return (f"{a[0]} - {second[1:]}" if second.startswith("-") else f"{a[0]} + {second}"), SUM
    if op == "neg":
        return f"-{wrap(a, PRODUCT)}", SUM
    if op == "mul":
        return rf"{wrap(a, PRODUCT)} \, {wrap(inputs[1], PRODUCT)}", PRODUCT
    if op == "div":
        return rf"\frac{{{a[0]}}}{{{inputs[1][0]}}}", PRODUCT
    if op == "max":
        return rf"\max\left({a[0]}, {inputs[1][0]}\right)", ATOM
    if op == "abs":
        return rf"\left|{a[0]}\right|", ATOM
    if op == "square":
        return f"{wrap(a, ATOM)}^2", POWER
    if op == "sqrt":
        return rf"\sqrt[\pm]{{{a[0]}}}", ATOM
    if op in FUNCTIONS:
        return rf"{FUNCTIONS[op]}\left({a[0]}\right)", ATOM
    kind, index = AGGREGATIONS[op]
    if kind == "mean":
        return rf"\mu_{{{SUBSCRIPTS[index]}}}\left({a[0]}\right)", ATOM
    if kind == "mean_square":
        return rf"\sqrt{{\mu_{{{SUBSCRIPTS[index]}}}\left({wrap(a, ATOM)}^2\right) + \epsilon}}", ATOM
    return rf"\sqrt{{s^2_{{{SUBSCRIPTS[index]}}}\left({a[0]}\right) + \epsilon}}", ATOM


def graph_to_sympy(graph: Graph, *, guards: bool = True) -> sympy.Expr:
    """The layer as an unevaluated sympy expression.

    Symbols ``x``, ``v0``, ``v1``, ``epsilon`` (real; epsilon positive). An aggregation is an undefined function under
    its name, e.g. ``std_bwh(x)`` with its own eps inside. Nothing is simplified while building, because sympy would
    try to evaluate towers of exponentials; call ``.doit()`` or ``sympy.simplify`` on what is small enough.

    Args:
        graph: the candidate.
        guards: keep epsilon in div, log and sqrt exactly as the layer computes them (True), or leave it out there
            for reading (False; then ``x/0`` can occur).

    Example:
        >>> graph_to_sympy(Graph([("sigmoid", (0,)), ("mul", (0, 4))])).doit()
        x/(1 + exp(-x))
    """
    import sympy as sp

    x, v0, v1 = sp.symbols("x v0 v1", real=True)
    epsilon = sp.Symbol("epsilon", positive=True)

    def add(*terms: sympy.Expr) -> sympy.Expr:
        return sp.Add(*terms, evaluate=False)

    def mul(*factors: sympy.Expr) -> sympy.Expr:
        return sp.Mul(*factors, evaluate=False)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        return sp.Pow(base, exponent, evaluate=False)

    def call(function: str, *arguments: sympy.Expr) -> sympy.Expr:
        return getattr(sp, function)(*arguments, evaluate=False)

    def guarded(magnitude: sympy.Expr) -> sympy.Expr:
        return add(magnitude, epsilon) if guards else magnitude

    def expression(op: str, a: sympy.Expr, b: sympy.Expr | None) -> sympy.Expr:
        match op:
            case "add":
                return add(a, b)
            case "mul":
                return mul(a, b)
            case "div":
                if guards:
                    positive = sp.GreaterThan(b, sp.S.Zero, evaluate=False)
                    sign = sp.Piecewise((sp.S.One, positive), (sp.S.NegativeOne, True), evaluate=False)
                    b = add(b, mul(sign, epsilon))
                return mul(a, power(b, sp.S.NegativeOne))
            case "max":
                return call("Max", a, b)
            case "neg":
                return mul(sp.S.NegativeOne, a)
            case "sigmoid":
                return power(add(sp.S.One, call("exp", mul(sp.S.NegativeOne, a))), sp.S.NegativeOne)
            case "tanh" | "exp":
                return call(op, a)
            case "log":
                return mul(call("sign", a), call("log", guarded(call("Abs", a))))
            case "sqrt":
                return mul(call("sign", a), power(guarded(call("Abs", a)), sp.S.Half))
            case "abs":
                return call("Abs", a)
            case "square":
                return power(a, sp.Integer(2))
            case _:
                return sp.Function(op, real=True)(a)

    values = [x, sp.S.Zero, v0, v1]
    for op, inputs in graph.canonical().nodes:
        second = values[inputs[1]] if len(inputs) > 1 else None
        values.append(expression(op, values[inputs[0]], second))
    assert len(values) > FIRST_NODE
    return values[-1]
