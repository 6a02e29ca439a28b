"""What a newcomer finds: topics by attribute, a short dir, builders at the top."""

from __future__ import annotations

import subprocess
import sys

import pytest

import normviz


def test_topics_by_attribute_in_a_fresh_process_and_no_torch_before() -> None:
    code = (
        "import sys, normviz\n"
        "listed = dir(normviz)\n"
        "assert 'torch' not in sys.modules and 'normviz.optim' not in sys.modules\n"
        "assert normviz.optim.SWAN and normviz.norms.PowerNorm and normviz.weighting.BNPO\n"
        "for name in listed:\n"
        "    getattr(normviz, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dir_lists_public_names_only() -> None:
    names = dir(normviz)
    assert {"create_optimizer", "list_norms", "norms", "optim", "watch"} <= set(names)
    assert [name for name in names if name.startswith("_")] == ["__version__"]
    assert not {"Any", "TYPE_CHECKING", "annotations", "import_module"} & set(names)
    assert set(normviz.__all__) <= set(names)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'optimizers'"):
        _ = normviz.optimizers
