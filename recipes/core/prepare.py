"""Prepare token arrays without training, and tell what cleaning removed and how full the rows are.

`python recipes/core/prepare.py --data FOLDER --packages FOLDER ... --out RUN [--uncleaned | --repeats] \
[--tokenizer FOLDER]`
"""

from __future__ import annotations

import argparse
import sysconfig
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megacontext.cli.failures import run_script
from megacontext.training.babi import BABI
from megacontext.training.card import read_figures, tables_of, write_figures
from megacontext.training.curriculum import ROWS
from megacontext.training.packing import packing
from megacontext.training.preparation import REPORT, SIDES, add_stories, load_stores, prepare
from megacontext.training.settings import read_settings
from megacontext.training.tokens import read_tokenizer
from megacontext.training.windows import TextSource
from megacontext.values import whole_number

LENGTHS = {
    **dict.fromkeys(("aligned", "aligned_code"), 192),
    **dict.fromkeys(("dense", "dense_code", "dense_puzzles"), 256),
    **dict.fromkeys(("spread", "spread_code"), 768),
}
LONGEST = 2048


def cleaning_table(told: dict[str, Any]) -> Table:
    """Documents and tokens that stayed and that each rule removed, by side and domain."""
    table = Table("side", "domain", "", "documents", "tokens", "of what was read")
    for side in SIDES:
        for domain, counts in told[side].items():
            parts = {"kept": counts["kept"], **counts["removed"]}
            num_read = sum(part["tokens"] for part in parts.values())
            for name, part in parts.items():
                share = f"{part['tokens'] / num_read:.2%}" if num_read else ""
                table.add_row(side, domain, name, f"{part['documents']:,}", f"{part['tokens']:,}", share)
    return table


def read_report(data: Path) -> tuple[dict[str, Any], Table | None]:
    """What cleaning told of a folder, and as a table; nothing where it told nothing. InvalidValueError where it cannot
    be what it told."""
    path = data / REPORT
    if not path.exists():
        return {}, None
    told = read_figures(path, parts=SIDES, measure="recipes/core/prepare.py")
    fix = "put back the one that was written there, or give a new --out"
    return told, tables_of(path, cleaning_table, told, reader="prepare.py", fix=fix)


def measure_rows(data: Path, shares: dict[str, float], count: int) -> dict[str, dict[str, float]]:
    """Packing of every kind of row that the folder can make."""
    tokenizer = read_tokenizer(data / "tokenizer")
    stores = load_stores(data, "train")
    source = TextSource(tokenizer, stores, shares)
    measured = {}
    for row_kind, make in ROWS.items():
        if row_kind != BABI or BABI in stores:
            length = LENGTHS.get(row_kind, LONGEST)
            seeds = [f"{row_kind}/{index}" for index in range(count)]
            measured[f"{row_kind}_{length}"] = asdict(packing(source, make, length, seeds))
    return measured


def main() -> None:
    """Prepare (what is there stays, stories are added), then print both tables; the report takes the packing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/, knowledge/ and babi/")
    parser.add_argument("--packages", type=Path, nargs="*", default=[Path(sysconfig.get_paths()["purelib"])])
    parser.add_argument("--out", type=Path, required=True, help="token arrays go to OUT/data")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("base.toml"))
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--uncleaned", action="store_true", help="leave out unreadable files alone")
    less.add_argument("--repeats", action="store_true", help="keep duplicates and near-duplicates")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder to use instead of learning one")
    parser.add_argument("--rows", type=int, default=60, help="rows of each kind to measure")
    args = parser.parse_args()
    data = args.out / "data"
    settings = read_settings(args.config)
    whole_number("--rows", args.rows, least=1)
    read_report(data)
    prepare(
        args.data,
        args.packages,
        data,
        vocab_size=settings.vocab_size,
        cleaned=not args.uncleaned,
        keeps_repeats=args.repeats,
        tokenizer=args.tokenizer,
        least_tokens={domain: LONGEST + 2 for domain, share in settings.shares.items() if share},
    )
    add_stories(args.data, data)
    console = Console()
    told, cleaned = read_report(data)  # what was there is whole; this may be one that is new
    measured = measure_rows(data, settings.shares, args.rows)
    if cleaned is not None:
        write_figures(data / REPORT, {**told, "packing": measured}, of=str(data))
        console.print(cleaned)
    table = Table("row", *(next(iter(measured.values()))))
    for name, shares in measured.items():
        table.add_row(name, *(f"{share:.2%}" for share in shares.values()))
    console.print(table)


if __name__ == "__main__":
    run_script(main)
