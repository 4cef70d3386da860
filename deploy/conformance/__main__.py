"""`python -m deploy.conformance`: writes `deploy/conformance.md` from the tables in the code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.conformance.document import render

TARGET: Final = Path(__file__).parents[1] / "conformance.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or with ``--check`` see whether it is the one that the code says; 1 where it is not."""
    parser = argparse.ArgumentParser(prog="python -m deploy.conformance", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the file is what the code says")
    if parser.parse_args(argv).check:
        good = TARGET.exists() and TARGET.read_text(encoding="utf-8") == render()
        print(f"{TARGET.name} is {'up to date' if good else 'out of date: run python -m deploy.conformance'}")
        return 0 if good else 1
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
