"""Port a model without an installed command: ``python tools/port_model.py BASE --quick`` is ``megacontext port``."""

from __future__ import annotations

import sys

from megacontext.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["port", *sys.argv[1:]]))
