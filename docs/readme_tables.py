"""Write the README's tables: papers from the catalog and the pages that are built, verdicts from the evidence."""

from pathlib import Path

from normviz.catalog import papers_table
from normviz.evidence import verdicts_table
from normviz.experiments import SLUGS

README = Path(__file__).parents[1] / "README.md"


def with_table(text: str, name: str, table: str) -> str:
    """The text with the table between the marks ``<!-- name … -->`` and ``<!-- /name -->``."""
    head, opening, rest = text.partition(f"<!-- {name}")
    mark, end, rest = rest.partition("-->")
    _, closing, tail = rest.partition(f"<!-- /{name} -->")
    if not closing:
        raise ValueError(f"README.md must have the marks <!-- {name} --> and <!-- /{name} -->.")
    return f"{head}{opening}{mark}{end}\n{table}\n{closing}{tail}"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    text = with_table(text, "papers", papers_table(SLUGS))
    README.write_text(with_table(text, "verdicts", verdicts_table()), encoding="utf-8")
