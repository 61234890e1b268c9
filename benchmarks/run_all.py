"""Every benchmark, one after another, and one table of what was promised: `make bench`.

Each runs in a process of its own and writes its JSON; figures with a target are gathered in ``summary.json``, and
results that are to be committed become the page and the picture of the documentation (``report.py``). A benchmark that
fails counts as missed, one that lacks an optional package says so and is skipped; their last results stay. Exit code 1
if anything was missed.

python benchmarks/run_all.py --out benchmarks/results
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from record import RESULTS, SKIPPED, parser, record

BENCHMARKS = (
    "import_cost",
    "durable_append",
    "bulk_ingest",
    "ingest_rivals",
    "random_reads",
    "bytes_per_token",
    "refocus_bookkeeping",
    "refocus_cost",
    "patch_drift",
    "edit_cost",
    "slow_store",
    "focus_decision",
    "decode_overhead",
    "first_token",
    "sessions_together",
    "history_cost",
    "memory_footprint",
    "learned_memory",
    "hidden_facts",
)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    given = arguments.parse_args()
    unknown = sorted(set(given.names) - set(BENCHMARKS))
    if unknown:
        arguments.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    rows = [figure for name in given.names or BENCHMARKS for figure in run(name, given.out)]
    record("summary", rows, given.out)
    if given.out.resolve() == RESULTS:
        run_script("report", [])
    missed = sum(not figure["reached"] for figure in rows)
    Console().print(f"{len(rows) - missed} of {len(rows)} targets reached")
    return 1 if missed else 0


def run(name: str, out: Path) -> list[dict[str, object]]:
    """Run one benchmark; its figures that have a target."""
    Console().rule(name)
    result = out / f"{name}.json"
    before = result.stat().st_mtime_ns if result.exists() else None
    began = time.perf_counter()
    code = run_script(name, ["--out", str(out)])
    seconds = time.perf_counter() - began
    if code == SKIPPED:
        return []
    if code or not result.exists() or result.stat().st_mtime_ns == before:
        return [{"what": f"{name} failed with exit code {code}", "value": "-", "target": "runs", "reached": False}]
    figures = json.loads(result.read_text(encoding="utf-8"))["rows"]
    return [
        {
            **{key: figure.get(key, "") for key in ("what", "value", "unit", "target", "reached")},
            "from": name,
            "s": seconds,
        }
        for figure in figures
        if "target" in figure and "commit" not in figure  # of a base that was not measured this time
    ]


def run_script(name: str, arguments: list[str]) -> int:
    """Run a script of this folder; its exit code."""
    script = Path(__file__).with_name(f"{name}.py")
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
