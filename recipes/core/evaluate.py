"""Measure what a core with gists remembers, into `memory.json` of its model folder.

`python recipes/core/evaluate.py --out RUN --model FOLDER [--quick]`
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import read_core_folder
from megacontext.errors import InvalidValueError, MegaContextError
from megacontext.training.memory_scoring import recall_in_windows
from megacontext.training.preparation import load_stores
from megacontext.training.recall import Asking
from megacontext.training.rows import puzzle_row, recall_row
from megacontext.training.windows import TextSource

LENGTH = 2048
BUDGETS = (512, 256, 128)


def main() -> None:
    """Exact recall of held-out names and values at three budgets, with controls; `--quick`: a tenth of the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote token arrays and checkpoint")
    parser.add_argument("--model", type=Path, required=True, help="model folder to measure")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    nets = read_core_folder(args.model, dtype=torch.bfloat16, device=torch.device("cpu"))
    if nets.gist_net is None:
        raise InvalidValueError(f"{args.model} has no GistNet; export a run that was trained with one")
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    shares = tomllib.loads(args.config.read_text())["shares"]
    held_out = load_stores(args.out / "data", "held_out")
    source = TextSource(tokenizer, held_out, {domain: shares[domain] for domain in ("books", "code")})
    count = 16 if args.quick else 160
    codes = Asking(test=True, key="code", product=True)
    rows = {
        "codes": [recall_row(source, Random(f"7/{index}"), LENGTH, codes) for index in range(count)],
        "puzzles": [puzzle_row(source, Random(f"7/{index}"), LENGTH, test=True) for index in range(count)],
    }
    report = {kind: recall_in_windows(nets.core, nets.gist_net, some, budgets=BUDGETS) for kind, some in rows.items()}
    (args.model / "memory.json").write_text(json.dumps(report, indent=2) + "\n")
    for kind, entries in report.items():
        for name, entry in entries.items():
            print(f"{kind:8} {name:22} {json.dumps(entry)}")
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
