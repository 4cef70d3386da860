"""`python -m deploy.conformance`: writes `deploy/conformance.md` from the tables in the code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.conformance.document import render
from deploy.generated import write_or_check

TARGET: Final = Path(__file__).parents[1] / "conformance.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or with ``--check`` see whether it is the one that the code says; 1 where it is not."""
    return write_or_check(lambda: {TARGET: render()}, "deploy.conformance", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
