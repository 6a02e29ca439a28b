"""The house: a room imports only from rooms below it, no circles, Streamlit and PyTorch only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import normviz

ROOT = Path(__file__).parents[1]

NOUNS = (
    "arms",
    "catalog",
    "claims",
    "digit_sources",
    "environment",
    "frame",
    "knob_fields",
    "knobs",
    "measures",
    "module_roles",
    "own_data",
    "own_images",
    "own_tables",
    "presets",
    "progress",
    "uploads",
    "validation",
    "variables",
    "writers",
)
METHODS = (
    "adapters",
    "adaptive",
    "attention",
    "decoding",
    "federated",
    "norms",
    "optim",
    "residual",
    "schedules",
    "weighting",
)
FLOORS: dict[str, int] = {
    "nouns": 0,
    "models": 1,
    **dict.fromkeys(METHODS, 1),
    "adaptive": 2,  # learners and test-time adaptation act on the layers of norms
    "probes": 2,
    "testing": 3,
    "figures": 3,
    "training": 3,
    "data": 3,
    "experiments": 4,
    "engine": 5,
    "evidence": 6,
    "ui": 7,
    "cli": 7,
    "pages": 8,
    "app": 8,
}
"""Floor of each room, as in the design's table."""

TORCH_FREE_ROOMS = ("nouns", "figures", "experiments", "engine", "evidence", "ui", "cli")
WITH_TORCH = ("normviz.module_roles", "normviz.experiments.watch")
"""Modules of torch-free rooms that need PyTorch, beside what an experiment's ``frames`` train with."""


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, and where it stands."""

    module: str
    target: str
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of the house by dotted name."""
    files = [ROOT / "app.py", *(ROOT / "pages").glob("*.py")]
    files += [path for room in ("normviz", "models") for path in (ROOT / room).rglob("*.py")]
    return {_dotted(path): path for path in sorted(files)}


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "models":  # the folder at the top is the package normviz.models
        parts = ("normviz", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room a module of the house belongs to."""
    head, _, rest = module.partition(".")
    if head != "normviz":
        return head
    name = rest.partition(".")[0]
    if name in NOUNS or not name:
        return "nouns"
    return name


@cache
def imports(*, typing_too: bool) -> tuple[Import, ...]:
    """Every import in the house, also inside functions; those under ``TYPE_CHECKING`` only if asked for."""
    return tuple(
        Import(module, target, node.lineno)
        for module, path in modules().items()
        for node in _statements(ast.parse(path.read_text(encoding="utf-8")), typing_too)
        for target in _targets(node, module, path)
    )


def _statements(node: ast.AST, typing_too: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
        children = [*node.orelse]
    for child in children:
        yield from _statements(child, typing_too)


def _targets(node: ast.Import | ast.ImportFrom, module: str, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{base}".rstrip(".")
    return [_resolved(base, alias.name) for alias in node.names]


def _resolved(base: str, name: str) -> str:
    """The module that ``from base import name`` loads; names that ``normviz`` exports lazily are looked up."""
    if f"{base}.{name}" in modules():
        return f"{base}.{name}"
    if base == "normviz" and name in normviz._LAZY:
        return normviz._LAZY[name][0]
    return base


def inside(target: str) -> bool:
    return target.partition(".")[0] in ("normviz", "pages", "app")


def private_imports(module: str, source: str, path: Path) -> list[str]:
    """Names with a leading underscore, or below one, that ``module`` imports from another room."""
    found = []
    for node in _statements(ast.parse(source), typing_too=True):
        bases = _targets(node, module, path)
        for base, alias in zip(bases, node.names, strict=True):
            full = (
                base
                if isinstance(node, ast.Import) or base.endswith(f".{alias.name}")
                else f"{base}.{alias.name}"
            )
            private = any(part.startswith("_") and not part.endswith("__") for part in full.split("."))
            if private and inside(full) and room(full) != room(module):
                found.append(full)
    return found


def test_no_room_imports_private_names_of_another() -> None:
    found = {
        (module, name)
        for module, path in modules().items()
        for name in private_imports(module, path.read_text(encoding="utf-8"), path)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("from normviz.optim._matrix import as_matrix", ["normviz.optim._matrix.as_matrix"]),
        ("from normviz.optim import _matrix", ["normviz.optim._matrix"]),
        ("from normviz.optim.muon import _private", ["normviz.optim.muon._private"]),
        ("import normviz.optim._matrix as m", ["normviz.optim._matrix"]),
        ("def f():\n    from ..optim._matrix import as_matrix", ["normviz.optim._matrix.as_matrix"]),
        ("from normviz import __version__, frame", []),
        ("from normviz.probes._own import helper", []),
        ("from torch._C import _functorch", []),
        ("from normviz.optim import Muon", []),
    ],
)
def test_private_imports_are_found(statement: str, names: list[str]) -> None:
    home = modules()["normviz.probes.spectrum"]
    assert private_imports("normviz.probes.spectrum", statement, home) == names


def test_every_module_has_a_floor() -> None:
    homeless = sorted({room(module) for module in modules()} - FLOORS.keys())
    assert not homeless, f"rooms without a floor: {homeless}"


def test_rooms_import_only_from_below() -> None:
    wrong = [
        f"{i.module}:{i.line} (floor {FLOORS[room(i.module)]}) imports {i.target} (floor {FLOORS[room(i.target)]})"
        for i in imports(typing_too=True)
        if inside(i.target)
        and i.module != "normviz"  # the lazy front door, which names what is exported for type checkers
        and room(i.module) != room(i.target)
        and FLOORS[room(i.target)] >= FLOORS[room(i.module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_front_door_imports_nothing() -> None:
    assert [i.target for i in imports(typing_too=False) if i.module == "normviz" and inside(i.target)] == []


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for i in imports(typing_too=True):
        if i.target in graph and i.target != i.module:
            graph[i.module].add(i.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_walk_finds_what_it_looks_for() -> None:
    found = {(i.module, i.target) for i in imports(typing_too=True)}
    assert ("normviz.engine", "normviz.engine.store") in found, "under TYPE_CHECKING"
    assert ("normviz.experiments.run", "pyarrow.parquet") in found, "inside a function"
    assert ("pages.runs", "normviz.ui.history") in found
    assert ("normviz.engine", "normviz.engine.store") not in {
        (i.module, i.target) for i in imports(typing_too=False)
    }
    assert (room("normviz.experiments.watch"), FLOORS["experiments"]) == ("experiments", 4)
    assert room(_resolved("normviz", "watch")) == "experiments", "a lazy name is no way around the floors"


def test_training_needs_no_charts() -> None:
    """A worker process loads no Altair: what trains imports nothing that draws."""
    code = (
        "import sys; from importlib import import_module\n"
        "from normviz.experiments import SLUGS, get_experiment\n"
        "for slug in SLUGS:\n"
        "    import_module(get_experiment(slug).package + '.frames')\n"
        "    assert 'altair' not in sys.modules, slug\n"
    )
    python(code)


def test_streamlit_only_at_the_top() -> None:
    wrong = {
        i.module
        for i in imports(typing_too=True)
        if i.target.partition(".")[0] == "streamlit" and room(i.module) not in ("ui", "pages", "app")
    }
    assert not wrong


def test_methods_and_models_import_few_packages() -> None:
    allowed = {"torch", "numpy", "sympy", "scipy", "normviz"} | sys.stdlib_module_names
    wrong = {
        f"{i.module}:{i.line} imports {i.target}"
        for i in imports(typing_too=True)
        if (room(i.module) in METHODS and i.target.partition(".")[0] not in allowed)
        or (
            room(i.module) == "models"
            and room(i.target) != "models"
            and i.target.partition(".")[0] not in {"torch"} | sys.stdlib_module_names
        )
    }
    assert not wrong, "\n".join(sorted(wrong))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_normviz_loads_nothing_heavy() -> None:
    loaded = python(
        "import sys; before = set(sys.modules); import normviz; print(*sorted(set(sys.modules) - before))"
    ).split()
    assert "normviz" in loaded
    packages = {name.partition(".")[0] for name in loaded}
    assert packages <= {"normviz"} | sys.stdlib_module_names, packages
    assert [name for name in loaded if name.startswith("normviz.")] == []


def test_every_lazy_name_is_there() -> None:
    assert set(normviz._LAZY) | {"__version__"} == set(normviz.__all__)
    assert all(callable(getattr(normviz, name)) for name in normviz._LAZY)
    assert set(normviz.__all__) <= set(dir(normviz))
    with pytest.raises(AttributeError, match="no attribute 'wacht'"):
        normviz.wacht  # noqa: B018


def _on_the_server(module: str) -> bool:
    """Whether the server may load a module: of an experiment's folder what it shows and judges, not what trains."""
    if room(module) not in TORCH_FREE_ROOMS or module in WITH_TORCH:
        return False
    if module == "normviz.ui.main":  # a script of Streamlit's, not a module
        return False
    _, _, inner = module.removeprefix("normviz.experiments.").partition(".")
    return room(module) != "experiments" or inner in ("", "knobs", "figures", "claims", "presets", "recorded")


def test_the_servers_side_loads_no_torch() -> None:
    names = [module for module in modules() if _on_the_server(module)]
    assert len(names) > 40
    code = (
        "import sys, logging; from importlib import import_module\n"
        "logging.disable()\n"
        f"for name in {names!r}:\n"
        "    import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads PyTorch'\n"
    )
    python(code)
