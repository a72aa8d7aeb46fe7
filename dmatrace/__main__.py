"""``python3 -m dmatrace``."""

from __future__ import annotations

import sys

from dmatrace.cli import main

if __name__ == "__main__":
    sys.exit(main())
