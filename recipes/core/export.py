"""Write the model folder of a checkpoint, and what the run logged beside it.

`python recipes/core/export.py --out RUN --model FOLDER [--earlier RUN ...] [--config FILE]`

A model that is there gets other weights; what others put beside them stays. Where they are others than before, the
figures of before get another name (`evaluation.before.json`) and a lens that was taught beside them is gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megacontext.bases.core_keeping import outdated_figures
from megacontext.cli.failures import run_script
from megacontext.training.core_export import drawn_before, export_checkpoint
from megacontext.training.settings import read_settings


def main() -> None:
    """Export; may run while training goes on (the checkpoint is replaced in one move)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote its checkpoint")
    parser.add_argument("--model", type=Path, required=True, help="the model folder to write")
    earlier = "runs, or a model, that --out went on from: for their logs, and what they taught"
    parser.add_argument("--earlier", type=Path, nargs="*", default=(), help=earlier)
    parser.add_argument("--config", type=Path, help="its configuration, where the run noted none or another is meant")
    args = parser.parse_args()
    settings = None if args.config is None else read_settings(args.config)
    lens = args.model / "lens_net.safetensors"
    had_lens = lens.exists()
    state = export_checkpoint(args.out, args.model, settings, earlier=args.earlier)
    for untold in (one for one in args.earlier if drawn_before(one) is None):
        print(f"{untold} tells nothing of what it drew: what was taught there alone is not counted")
    print(f"step {state['step']}, {state['tokens']:,} tokens, {state['seconds'] / 60:.1f} minutes -> {args.model}")
    if had_lens and not lens.exists():
        print("the lens was taught beside the weights before and is gone: teach another (recipes/core/lens.py)")
    if outdated := outdated_figures(args.model):
        card = ", and what README.md says of them" if (args.model / "README.md").exists() else ""
        print(f"of the weights before: {', '.join(outdated)}, kept as *.before.json{card}; measure again")


if __name__ == "__main__":
    run_script(main)
