"""Makes `python -m doitong_async` run `doitong`."""

from __future__ import annotations

import sys

from doitong_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
