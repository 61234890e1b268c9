"""Does bookkeeping stay light? Import time of its rooms, and that none of them brings torch or transformers.

A fresh process imports every module of a room. python benchmarks/import_cost.py --out benchmarks/results
"""

from __future__ import annotations

import json
import subprocess
import sys

from record import parser, record, row

ROOMS = ("tree", "ports", "storage", "catalog", "documents", "focus", "memory")
HEAVY = ("torch", "transformers")
PROBE = """
import importlib, json, pkgutil, sys, time
began = time.perf_counter()
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if ".migrations" not in module.name:  # run by Alembic only
        importlib.import_module(module.name)
seconds = time.perf_counter() - began
print(json.dumps([1e3 * seconds, [name for name in sys.argv[2:] if name in sys.modules]]))
"""


def main() -> None:
    given = parser(__doc__.splitlines()[0]).parse_args()
    rows = []
    for room in ROOMS:
        milliseconds, heavy = probe(f"megacontext.{room}")
        rows.append(row(f"import megacontext.{room}: heavy modules", len(heavy), "modules", at_most=0, ms=milliseconds))
    milliseconds, heavy = probe("megacontext", walk=False)
    rows.append(row("import megacontext: heavy modules", len(heavy), "modules", at_most=0, ms=milliseconds))
    record("import_cost", rows, given.out)


def probe(package: str, *, walk: bool = True) -> tuple[float, list[str]]:
    """Milliseconds to import a package (all of it, or its surface), and which heavy modules came along."""
    source = PROBE if walk else PROBE.replace("package.__path__", "[]")
    output = subprocess.run(
        [sys.executable, "-c", source, package, *HEAVY], check=True, capture_output=True, text=True
    ).stdout
    milliseconds, heavy = json.loads(output)
    return milliseconds, heavy


if __name__ == "__main__":
    main()
