"""Write a model whose weights are the mean of two: of the one that a run went on from, and of the one that it made.

`python recipes/core/average.py --before MODEL --after MODEL --model FOLDER [--share S]`

The logs beside it are those of the second. It has no lens: teach one (`recipes/core/lens.py`), and measure it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megacontext.bases.core_folder import write_core_folder
from megacontext.bases.core_keeping import RUN_LOGS, outdated_figures
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.training.averaging import averaged
from megacontext.training.core_export import END_OF_TEXT_ID
from megacontext.training.export import tokenizer_files
from megacontext.values import number


def main() -> None:
    """Read both, write the third."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="the model that a run went on from")
    parser.add_argument("--after", type=Path, required=True, help="the model that it made")
    parser.add_argument("--model", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--share", type=float, default=0.5, help="of --after, 0 to 1")
    args = parser.parse_args()
    number("--share", args.share, least=0, most=1)
    if args.model.resolve() in (args.before.resolve(), args.after.resolve()):
        raise InvalidValueError(f"--model {args.model} is one of the two; give the mean a folder of its own")
    nets = averaged(args.before, args.after, share=args.share)
    logs = sorted(path for path in args.after.iterdir() if RUN_LOGS.fullmatch(path.name))
    write_core_folder(args.model, nets, [*tokenizer_files(args.after), *logs], eos_token_id=END_OF_TEXT_ID)
    print(f"{1 - args.share:g} x {args.before} + {args.share:g} x {args.after} -> {args.model}")
    if outdated := outdated_figures(args.model):
        print(f"of the weights before: {', '.join(outdated)}, kept as *.before.json; measure again")


if __name__ == "__main__":
    run_script(main)
