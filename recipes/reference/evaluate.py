"""Measure a model folder and write `evaluation.json` into it.

`python recipes/reference/evaluate.py --out FOLDER --model FOLDER [--quick]`
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from megacontext.cli.failures import run_script
from megacontext.training.card import write_figures
from megacontext.training.checkpoint import read_checkpoint
from megacontext.training.held_out import device_option, held_out_source, plain_logits, processor
from megacontext.training.preparation import load_stores
from megacontext.training.recipe import training_device
from megacontext.training.scoring import bits_per_byte, cut_report, far_copy, recall_report
from megacontext.training.settings import read_settings
from megacontext.training.tokens import read_tokenizer, token_bytes, token_pieces

HERE = Path(__file__).parent


def main() -> None:
    """Run all measurements; `--quick` takes a tenth of the windows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote token arrays and checkpoint")
    parser.add_argument("--model", type=Path, required=True, help="model folder to measure")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    device_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    scale = 0.1 if args.quick else 1.0
    state = read_checkpoint(args.out / "checkpoint.pt")["state"]
    logits = plain_logits(args.model, training_device(args.device))
    tokenizer = read_tokenizer(args.model)
    held_out = load_stores(args.out / "data", "held_out")
    source = held_out_source(args.out, tokenizer, read_settings(args.config).shares)

    pieces = token_pieces(tokenizer)
    bytes_v = token_bytes(tokenizer)
    report = {
        "run": {
            "steps": state["step"],
            "tokens": state["tokens"],
            "minutes": round(state["seconds"] / 60, 1),
            "tokens_by_row_kind": state["tokens_by_row_kind"],
            "stage_ends": state["stage_ends"],
            "machine": f"one core, one thread, {processor()}",
        },
        "validation": {
            domain: bits_per_byte(
                logits, store, bytes_v, count=max(4, int(scale * (60 if domain != "knowledge" else 20)))
            )
            for domain, store in held_out.items()
        },
        "far_context": {
            domain: far_copy(logits, held_out[domain], pieces, count=max(8, int(scale * 120)))
            for domain in source.stores
        },
        "recall": recall_report(logits, source, count=max(8, int(scale * 120))),
        "cut_recall": cut_report(logits, source, count=max(8, int(scale * 80))),
    }
    write_figures(args.model / "evaluation.json", report, of=str(args.model))
    print(json.dumps(report, indent=2))
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    run_script(main)
