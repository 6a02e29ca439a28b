"""The short form of ``make soak``: every trial but that of memory, a few times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.__main__ import trials

SIZES = {
    "workers": 0.05,
    "servers": 0.05,
    "disk": 0.1,
    "owners": 0.1,
    "links": 0.05,
    "settings": 0.03,
    "damage": 0.05,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_nothing_fails(name: str, size: float, tmp_path: Path) -> None:
    trial = trials(tmp_path, size, seed=1)[name]()
    assert trial.tried
    assert trial.failures == []
