"""``python -m normviz.cli``: the command line."""

import sys

from normviz.cli import main

if __name__ == "__main__":
    sys.exit(main())
