"""The topic's public names: loaded when asked for, each from the module it is listed under."""

import subprocess
import sys
from importlib import import_module

import pytest

from normviz import norms


def test_every_public_name_has_a_home():
    assert set(norms.__all__) == set(norms._HOME)
    assert sorted(norms.__all__) == sorted(set(norms.__all__))
    for name in norms.__all__:
        home = import_module(f"normviz.norms.{norms._HOME[name]}")
        assert getattr(norms, name) is getattr(home, name)
        assert name in home.__all__


def test_unknown_name_and_dir():
    with pytest.raises(AttributeError, match="NoSuchNorm"):
        _ = norms.NoSuchNorm
    assert set(norms.__all__) <= set(dir(norms))


def test_what_needs_no_torch_loads_none():
    code = (
        "import sys; from normviz.norms.selu_moments import moment_map; from normviz.norms import "
        "EVONORM_GRAPHS, graph_to_latex, graph_to_python, graph_to_sympy, pareto_front; g = EVONORM_GRAPHS['B0']; "
        "graph_to_latex(g), graph_to_python(g), graph_to_sympy(g); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
