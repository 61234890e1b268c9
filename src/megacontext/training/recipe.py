"""What the training recipes share: their command line, and the way from it and a configuration file to a run."""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from megacontext.errors import InvalidValueError
from megacontext.training.loop import LoopConfig, LossFunction, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores, prepare
from megacontext.training.settings import Settings, read_settings
from megacontext.training.windows import TextSource

__all__ = ["Learner", "recipe_parser", "train"]


@dataclass(frozen=True)
class Learner:
    """What a recipe trains: its named weights, and its loss on a batch."""

    weights: Iterable[tuple[str, nn.Parameter]]
    loss: LossFunction


def recipe_parser(description: str | None, *, config: Path) -> argparse.ArgumentParser:
    """The arguments that all training recipes take; ``config`` is the recipe's own configuration file."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/ and knowledge/")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="*",
        default=[Path(sysconfig.get_paths()["purelib"])],
        help="site-packages folders to read code from (default: this environment's)",
    )
    parser.add_argument("--out", type=Path, required=True, help="token arrays, log and checkpoint go here")
    parser.add_argument("--config", type=Path, default=config)
    parser.add_argument("--minutes", type=float, help="end after this many minutes; rates then follow the clock")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    return parser


def train(args: argparse.Namespace, build: Callable[[Settings, int], Learner]) -> None:
    """Prepare token arrays (once), then train or resume. ``build`` makes the learner from the settings and the seed.
    Raises InvalidValueError if ``--out`` holds a run that ``--resume`` does not ask for."""
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise InvalidValueError(f"{args.out} holds a run already; add --resume, or give another --out")
    settings = read_settings(args.config)
    config = settings.read("loop", LoopConfig, max_minutes=args.minutes)
    optim, shares = settings.read("optim", OptimConfig), settings.shares
    stages = settings.stages(max_positions=settings.table("model").get("max_positions"))
    torch.set_num_threads(1)  # at these sizes threads wait for each other
    learner = build(settings, config.seed)
    prepare(args.data, args.packages, args.out / "data", vocab_size=settings.vocab_size)
    tokenizer = Tokenizer.from_file(str(args.out / "data" / "tokenizer" / "tokenizer.json"))
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=MasterOptimizer(learner.weights, optim),
        source=TextSource(tokenizer, load_stores(args.out / "data", "train"), shares),
        stages=stages,
        config=config,
        out=args.out,
    )
    if args.resume:
        loop.resume()
    loop.run()
