"""Runs: what was measured before; open, overlay, rename, delete, export."""

from normviz.ui.history import runs_page

runs_page()
