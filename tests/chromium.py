"""A Chromium for the browser tests: find one, or install Debian's where none is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> str | None:
    """Path of a Chromium: ``NORMVIZ_CHROMIUM``, one on the path, or one that Playwright has installed."""
    named = os.environ.get("NORMVIZ_CHROMIUM")
    if named and Path(named).is_file():
        return named
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    own = sorted((Path.home() / ".cache/ms-playwright").glob("chromium-*/chrome-linux*/chrome"))
    return str(own[-1]) if own else None


def install() -> None:
    """Install Debian's Chromium; needs apt-get and root or sudo."""
    if shutil.which("apt-get") is None:
        sys.exit(
            "No Chromium found and no apt-get here: install Chromium, or set NORMVIZ_CHROMIUM to its path."
        )
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*prefix, "apt-get", "update", "-qq"], check=True, env=environment)
    command = [
        *prefix,
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "chromium",
        "fonts-dejavu-core",
    ]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if find() is None:
        install()
    print(f"Chromium for the browser tests: {find()}")
