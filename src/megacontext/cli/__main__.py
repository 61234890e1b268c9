"""``python -m megacontext.cli``."""

from __future__ import annotations

from megacontext.cli.main import main

main()
