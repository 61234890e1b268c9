"""Write the model folder of a checkpoint: `python recipes/core/export.py --out RUN --model FOLDER [--config FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from megacontext.errors import MegaContextError
from megacontext.training.core_export import export_checkpoint
from megacontext.training.settings import read_settings


def main() -> None:
    """Export; may run while training goes on (the checkpoint is replaced in one move)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote its checkpoint")
    parser.add_argument("--model", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    args = parser.parse_args()
    state = export_checkpoint(args.out, read_settings(args.config).tables, args.model)
    print(f"step {state['step']}, {state['tokens']:,} tokens, {state['seconds'] / 60:.1f} minutes -> {args.model}")


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
