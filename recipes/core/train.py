"""Train the native core, then teach it memory.

`python recipes/core/train.py --data FOLDER --out BASE`
`python recipes/core/train.py --data FOLDER --out MEMORY --config recipes/core/memory.toml --start BASE/checkpoint.pt`
"""

from __future__ import annotations

from pathlib import Path

from megacontext.cli.failures import run_script
from megacontext.training.core_recipe import build_learner
from megacontext.training.recipe import RunArguments, recipe_parser, train


def main() -> None:
    """Train or resume what the configuration describes."""
    parser = recipe_parser(__doc__, config=Path(__file__).with_name("base.toml"))
    parser.add_argument("--start", type=Path, help="checkpoint whose core to go on from, or a plain model")
    args = parser.parse_args()
    if args.resume and args.start is not None:
        parser.error(f"--start {args.start} changes nothing of a run that goes on with --resume; leave one out")
    train(RunArguments.parse(args), lambda settings, seed: build_learner(settings, seed, start=args.start))


if __name__ == "__main__":
    run_script(main)
