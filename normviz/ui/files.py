"""Where the page files are."""

from pathlib import Path

__all__ = ["PAGES_FOLDER", "page_file"]

PAGES_FOLDER = Path(__file__).parents[2] / "pages"


def page_file(name: str) -> Path:
    """The file of a page, by slug or name."""
    return PAGES_FOLDER / f"{name.replace('-', '_')}.py"
