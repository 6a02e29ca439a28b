"""Where the scripts are that Streamlit runs: one for every visitor, one per page."""

from pathlib import Path

__all__ = ["PAGES_FOLDER", "VISITOR_FILE", "page_file"]

PAGES_FOLDER = Path(__file__).parents[1] / "pages"

VISITOR_FILE = Path(__file__).with_name("main.py")


def page_file(name: str) -> Path:
    """The file of a page, by slug or name."""
    return PAGES_FOLDER / f"{name.replace('-', '_')}.py"
