"""A method's real source, read from the file without importing it (the server has no PyTorch)."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import streamlit as st

import normviz

__all__ = ["Maths", "maths_beside_source", "source_of"]

ROOT = Path(normviz.__file__).parent


@dataclass(frozen=True)
class Maths:
    """A method's equations and the code that computes them.

    Args:
        title: heading of the tab.
        text: Markdown with KaTeX.
        file: path below the package, e.g. ``"norms/layer_norm.py"``.
        names: classes, functions or methods of that file, e.g. ``("LayerNorm.forward",)``.
        label: what the code is. Default: what ran on this page; else e.g. ``"the formula"`` or ``"the reference"``.
    """

    title: str
    text: str
    file: str
    names: tuple[str, ...]
    label: str = "the code that ran"


@lru_cache(maxsize=256)
def source_of(file: str, name: str) -> str:
    """The source text of a function, class or method, with its decorators, without its docstring.

    Raises:
        ValueError: the file has no such name.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        node = next(
            (n for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == part),
            None,
        )
        if node is None:
            raise ValueError(f"{file} has no {name!r}.")
        body = node.body
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
    lines = text.splitlines()
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    kept = lines[start : node.end_lineno]
    if ast.get_docstring(node, clean=False) is not None:
        doc = node.body[0]
        assert doc.end_lineno is not None
        kept = [*lines[start : doc.lineno - 1], *lines[doc.end_lineno : node.end_lineno]]
    indent = len(lines[start]) - len(lines[start].lstrip())
    return "\n".join(line[indent:] for line in kept)


@st.fragment
def maths_beside_source(parts: tuple[Maths, ...]) -> None:
    """Tabs, one per method: equations on the left, the code that runs on the right.

    Only the open tab is sent to the browser: typesetting all equations and code would delay the first chart.
    """
    sources = ["\n\n".join(source_of(part.file, name) for name in part.names) for part in parts]
    tabs = st.tabs([part.title for part in parts], key="maths", on_change="rerun")
    for tab, part, source in zip(tabs, parts, sources, strict=True):
        if tab.open:
            with tab:
                left, right = st.columns([2, 3])
                left.markdown(part.text)
                right.caption(f"`normviz/{part.file}`, {part.label}")
                right.code(source, language="python")
