"""The expansion of a small tower written out, term by term, as LaTeX; computer algebra, no PyTorch.

h_i = h_{i-1} + lambda f_i(h_{i-1}) is multiplied out as a polynomial in lambda. A tree of modules is one commuting
symbol of SymPy, and f_i around x acts on the polynomial u = h_{i-1} - x as its Taylor series: the symmetric multilinear
f_i^(m)[u, …, u] / m! is the power u^m / m!, whose monomials are the ways to hang subtrees below module i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from normviz.residual.counting import path_count, tree_count
from normviz.validation import check_choice, check_integer

__all__ = ["LARGEST_TERMS", "Kind", "Level", "largest_order", "written_out"]

Kind = Literal["affine", "smooth"]
LARGEST_TERMS = 60
"""Most terms of a level that are written out."""


@dataclass(frozen=True)
class Level:
    """One level of the expansion.

    Args:
        order: k.
        terms: each term as LaTeX with its coefficient, paths through early modules first.
        paths: C(n, k), the choices of k modules.
    """

    order: int
    terms: tuple[str, ...]
    paths: int

    @property
    def latex(self) -> str:
        """lambda^k times the sum of all terms; 0 if there is none."""
        if not self.terms:
            return "0"
        scale = ("", r"\lambda\,", rf"\lambda^{{{self.order}}}")[min(self.order, 2)]
        total = " + ".join(self.terms)
        return total if not scale else f"{scale}\\bigl({total}\\bigr)"


def term_count(n: int, order: int, kind: Kind) -> int:
    """Terms of a level: C(n, k) for affine modules, the number of trees for smooth ones."""
    return path_count(n, order) if kind == "affine" else tree_count(n, order)


def largest_order(n: int, kind: Kind) -> int:
    """The highest order up to which no level exceeds :data:`LARGEST_TERMS` terms; for affine modules at most n."""
    top = n if kind == "affine" else 12
    order = 0
    while order < top and term_count(n, order + 1, kind) <= LARGEST_TERMS:
        order += 1
    return order


@lru_cache(maxsize=64)
def written_out(n: int, order: int, kind: Kind = "affine") -> tuple[Level, ...]:
    """Levels 0..order of a tower of n modules around x.

    Args:
        n: modules, 1 to 8.
        order: last level.
        kind: ``"affine"``: f_i(h) = W_i h + b_i; ``"smooth"``: any smooth f_i, with its derivatives at x.

    Raises:
        ValueError: n outside 1..8, unknown kind, or an order with a level of more than :data:`LARGEST_TERMS` terms; the
            message has the largest that fits.
    """
    check_integer("n", n, 1, 8)
    check_choice("kind", kind, ("affine", "smooth"))
    check_integer("order", order, 0)
    fits = largest_order(n, kind)
    if order > fits:
        most = max(term_count(n, k, kind) for k in range(order + 1))
        raise ValueError(
            f"order must be at most {fits} for n = {n} {kind} modules, got {order}: a level would have {most} terms."
            if most > LARGEST_TERMS
            else f"order must be at most {fits} for n = {n} {kind} modules, got {order}."
        )
    levels = [[("x", Fraction(1))], *_levels(n, order, kind)]
    return tuple(
        Level(k, tuple(_term(text, coefficient) for text, coefficient in level), path_count(n, k))
        for k, level in enumerate(levels)
    )


def _term(text: str, coefficient: Fraction) -> str:
    if coefficient == 1:
        return text
    return rf"\tfrac{{{coefficient.numerator}}}{{{coefficient.denominator}}}{text}"


def _levels(n: int, order: int, kind: Kind) -> list[list[tuple[str, Fraction]]]:
    """Levels 1..order as (LaTeX, coefficient)."""
    import sympy

    z = sympy.Symbol("z")
    latex: dict[Any, str] = {}
    u = sympy.Integer(0)  # h_{i-1} - x as a polynomial in z, with one symbol per tree
    for i in range(1, n + 1):
        branch = sympy.Integer(0)
        known = list(latex)  # trees with a root below module i
        for m in range(order if kind == "smooth" else 2):
            power = sympy.expand(u**m / math.factorial(m))
            for monomial, coefficient in sympy.Poly(power, z, *known).terms():
                degree, exponents = monomial[0], monomial[1:]
                if degree >= order or coefficient == 0:
                    continue
                below = [latex[t] for t, e in zip(known, exponents, strict=True) for _ in range(e)]
                tree = sympy.Symbol(f"t{len(latex)}")
                latex[tree] = _hung(i, below, kind)
                branch += coefficient * tree * z ** (degree + 1)
        u = sympy.expand(u + branch)
    polynomial = sympy.Poly(u, z)
    age = {tree: i for i, tree in enumerate(latex)}
    levels = []
    for k in range(1, order + 1):
        total = polynomial.coeff_monomial(z**k)
        terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(total) if term != 0]
        terms.sort(key=lambda term: age[term[1]])
        levels.append([(latex[tree], Fraction(int(c.p), int(c.q))) for c, tree in terms])
    return levels


def _hung(i: int, below: list[str], kind: Kind) -> str:
    """Module i with subtrees below it."""
    if kind == "affine":
        return rf"W_{{{i}}} {below[0]}" if below else rf"f_{{{i}}}"
    mark = "'" * len(below) if len(below) <= 3 else f"^{{({len(below)})}}"
    return rf"f_{{{i}}}{mark}" + (rf"[{','.join(below)}]" if below else "")
