"""The environment a run was measured in: versions, device, git revision. Read without importing PyTorch."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["environment"]

_PACKAGES = ("normviz", "torch", "numpy", "scikit-learn")


@lru_cache(maxsize=1)
def _static() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    root = Path(__file__).parent.parent
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
            found["revision"] = subprocess.run(
                command, capture_output=True, text=True, timeout=2, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            found["revision"] = "unknown"
    return tuple(found.items())


def environment(device: str = "auto") -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, the machine, the git revision, the device."""
    return {**dict(_static()), "device": device}
