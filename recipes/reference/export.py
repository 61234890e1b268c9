"""Write the model folder of a checkpoint: `python recipes/reference/export.py --out FOLDER --model FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from megacontext.cli.failures import run_script
from megacontext.training.export import export_model, load_checkpoint
from megacontext.training.reference import ReferenceConfig
from megacontext.training.settings import read_settings

HERE = Path(__file__).parent


def main() -> None:
    """Export; may run while training goes on (the checkpoint is replaced in one move)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote its checkpoint")
    parser.add_argument("--model", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    args = parser.parse_args()
    config = read_settings(args.config).read("model", ReferenceConfig)
    model, state = load_checkpoint(args.out / "checkpoint.pt", config)
    export_model(model, args.out / "data" / "tokenizer", args.model)
    print(f"step {state['step']}, {state['tokens']:,} tokens, {state['seconds'] / 60:.1f} minutes -> {args.model}")


if __name__ == "__main__":
    run_script(main)
