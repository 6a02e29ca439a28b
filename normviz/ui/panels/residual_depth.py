"""The expansion of a small residual tower written out, and exact path counts; computed without PyTorch."""

from __future__ import annotations

import streamlit as st

from normviz.experiments.residual_depth.symbolic import Kind, largest_order, written_out
from normviz.residual.counting import ensemble_size, path_count, tree_count

__all__ = ["expansion_panel"]

KINDS: dict[Kind, str] = {"affine": "Affine modules", "smooth": "Smooth modules"}
PREFIX = "residual-depth/written-out"


def expansion_panel() -> None:
    """Two cards side by side: every term of a small tower, and the exact number of paths of a large one."""
    left, right = st.columns([2, 1])
    with left, st.container(border=True):
        _terms()
    with right, st.container(border=True):
        _counts()


@st.fragment
def _terms() -> None:
    st.markdown(
        "**Written out, term by term**  \n:gray[:small[Each term is a path (affine) or a tree (smooth); the later "
        "module stands outside.]]"
    )
    kind: Kind = st.pills(
        "Modules",
        list(KINDS),
        format_func=lambda k: KINDS[k],
        default="smooth",
        required=True,
        key=f"{PREFIX}/kind",
        help="Affine: f(h) = W h + b, the sum ends at level n. Smooth: any f with derivatives, forks and repetitions "
        "appear from level 3 on.",
    )
    first, second = st.columns(2)
    n = first.slider("Modules n", 1, 8, 3, key=f"{PREFIX}/n", help="Small: the terms multiply quickly.")
    order = second.slider("Up to level", 0, 8, 3, key=f"{PREFIX}/order", help="Last level that is written.")
    try:
        levels = written_out(n, order, kind)
    except ValueError as refused:
        st.warning(f"{refused} Shown is what fits.", icon=":material/tune:")
        levels = written_out(n, largest_order(n, kind), kind)
    st.markdown(f"$h_{{{n}}} =$")
    for level in levels:
        sign = "" if level.order == 0 else "+\\;"
        st.markdown(f"${sign}{level.latex}$ :gray[:small[{_counted(level.order, len(level.terms))}]]")
    rest = levels[-1].order + 1
    if kind == "smooth":
        st.markdown(f"$+\\; O(\\lambda^{{{rest}}})$")
    elif rest <= n:
        st.markdown(f"$+\\;$ levels {rest} to {n}")


def _counted(order: int, terms: int) -> str:
    return f"level {order}: {terms} term{'' if terms == 1 else 's'}"


@st.fragment
def _counts() -> None:
    st.markdown("**Counted exactly**  \n:gray[:small[Whole numbers, to the last digit.]]")
    n = st.number_input("Depth n", 1, 1000, 100, key=f"{PREFIX}/depth", help="1 to 1000 modules.")
    k = st.number_input("Level k", 0, 1000, 50, key=f"{PREFIX}/level", help="Modules on the path.")
    st.caption(f"Paths through exactly {k} of {n} modules")
    st.code(str(path_count(n, k)), language=None, wrap_lines=True)
    st.caption(f"Paths in all, 2^{n}")
    st.code(str(ensemble_size(n)), language=None, wrap_lines=True)
    small = min(k, 12)
    st.caption(f"Terms of level {small} when modules are smooth")
    st.code(str(tree_count(n, small)), language=None, wrap_lines=True)
