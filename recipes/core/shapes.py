"""What gists of other block sizes and widths are worth: a table from runs of `megacontext eval --task levels`.

Each run folder holds the trials of memories of one shape. Gists of a level stand for all but the last 256 tokens; what
they save of the nats of the next 64 tokens is taken against nothing in their place and against gists of other blocks,
paired history by history, with 95 % intervals (`evaluation/results/estimates.py`).

    for SHAPE in "8 1" "32 4"; do set -- $SHAPE
        megacontext eval --task levels --block-tokens $1 --gist-width $2 --lengths 2k,4k --samples 8 \\
            --data DATA --out RUNS/$1-$2
    done
    python recipes/core/shapes.py --runs RUNS/8-1 RUNS/32-4
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.results.estimates import Outcomes
from megacontext.evaluation.runs.records import RunFolder

MOST_LEVELS = 7
COLUMNS = (
    "block, width",
    "level",
    "tokens a vector",
    "far words: against nothing",
    "against shuffled",
    "all tokens: against nothing",
    "against shuffled",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders that megacontext eval wrote")
    rows = [cells for run in parser.parse_args().runs for cells in rows_of(run)]
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


def rows_of(run: Path) -> list[list[str]]:
    """The cells of each level that the run measured."""
    try:
        settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
        block_tokens, gist_width = settings["block_tokens"], settings["gist_width"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(f"{run} holds no run of megacontext eval ({error}); give its --out folder") from error
    folder = RunFolder(run, settings, {}, resume=True)
    levels = [record for record in folder.records if record.task == "levels"]
    folder.close()
    if not levels:
        raise InvalidValueError(f"{run} holds no trials of task levels; run megacontext eval --task levels there")
    far, every = Outcomes(levels, "far"), Outcomes(levels, "all")
    rows = []
    for level in range(1, MOST_LEVELS + 1):
        gists = f"level-{level}"
        if every.difference("no-gists", gists) is not None:
            saved = [_saved(part, other, gists) for part in (far, every) for other in ("no-gists", f"{gists}-shuffled")]
            rows.append([f"{block_tokens}, {gist_width}", str(level), f"{block_tokens**level // gist_width:,}", *saved])
    return rows


def _saved(part: Outcomes, other: str, gists: str) -> str:
    """Nats a token that these gists save."""
    found = part.difference(other, gists)
    return "" if found is None else f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


if __name__ == "__main__":
    run_script(main)
