"""Write the table of papers into the README, from the catalog and the pages that are built."""

from pathlib import Path

from normviz.catalog import papers_table
from normviz.experiments import SLUGS

README = Path(__file__).parents[1] / "README.md"

text = README.read_text(encoding="utf-8")
head, _, rest = text.partition("<!-- papers")
mark, _, rest = rest.partition("-->")
tail = rest.partition("<!-- /papers -->")[2]
README.write_text(
    f"{head}<!-- papers{mark}-->\n{papers_table(SLUGS)}\n<!-- /papers -->{tail}", encoding="utf-8"
)
