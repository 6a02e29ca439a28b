"""What the numbers of a run follow from: the source files that train it, and the versions of the packages below."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import normviz
from normviz.environment import environment
from normviz.experiments import Experiment

__all__ = ["sources_digest"]

JUDGING = ("claims.py", "figures.py", "presets.py")
"""Files of an experiment that judge or draw, and train nothing."""

NOT_TRAINING = ("cli", "engine", "evidence", "experiments", "figures", "testing", "ui")
"""Rooms whose files do not change a run's numbers; of ``experiments`` the files of one experiment do."""

VERSIONS = ("python", "torch", "numpy", "scikit-learn", "machine", "device")


def sources_digest(experiment: Experiment, device: str = "auto") -> str:
    """A short text that changes when something changes that an experiment's numbers follow from.

    These are the files of its own folder but for those that judge and draw, the method packages, the models, the
    training loop and the data sets, the versions of Python, PyTorch, NumPy and scikit-learn, and the device. Claims,
    charts, pages and documents do not count, so that a finished run stays usable when only these have changed.
    """
    digest = hashlib.sha256(_shared().encode())
    folder = _folder(experiment.package)
    for path in sorted(folder.rglob("*.py")):
        if path.name not in JUDGING:
            _add(digest, path.relative_to(folder).as_posix(), path)
    versions = environment(device)
    digest.update(repr([versions.get(name, "") for name in VERSIONS]).encode())
    return digest.hexdigest()[:12]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"The package {package!r} has no folder.")
    return Path(spec.origin).parent


@cache
def _shared() -> str:
    """Digest of the files that all experiments share."""
    digest = hashlib.sha256()
    house = Path(normviz.__file__).parent
    for root in (house, house.parent / "models"):
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root.parent).as_posix()
            room = name.split("/")[1]
            if root != house or room not in NOT_TRAINING:
                _add(digest, name, path)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, path: Path) -> None:
    digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
