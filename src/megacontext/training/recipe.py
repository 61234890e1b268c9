"""What the training recipes share: their command line, and the way from it and a configuration file to a run."""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from megacontext.errors import InvalidValueError
from megacontext.training.checkpoint import identity, read_checkpoint, same_shape
from megacontext.training.loop import LoopConfig, LossFunction, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores, prepare
from megacontext.training.settings import Settings, read_settings
from megacontext.training.windows import TextSource

__all__ = ["Learner", "recipe_parser", "train"]


@dataclass(frozen=True)
class Learner:
    """What a recipe trains.

    weights: by name; loss: of a batch; shape: the tables that say which weights there are; start: the checkpoint that
    it begins with.
    """

    weights: Iterable[tuple[str, nn.Parameter]]
    loss: LossFunction
    shape: Mapping[str, Mapping[str, Any]]
    start: Path | None = None


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
    Raises InvalidValueError if ``--out`` holds a run that ``--resume`` does not ask for, or the other way round."""
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise InvalidValueError(f"{args.out} holds a run already; add --resume, or give another --out")
    if args.resume and not (args.out / "checkpoint.pt").exists():
        raise InvalidValueError(f"{args.out} has no checkpoint.pt to resume; start a run there first")
    settings = read_settings(args.config)
    config = settings.read("loop", LoopConfig, max_minutes=args.minutes)
    optim, shares = settings.read("optim", OptimConfig), settings.shares
    stages = settings.stages(max_positions=settings.table("model").get("max_positions"))
    torch.set_num_threads(1)  # at these sizes threads wait for each other
    learner = build(settings, config.seed)
    prepare(args.data, args.packages, args.out / "data", vocab_size=settings.vocab_size)
    tokenizer = Tokenizer.from_file(str(args.out / "data" / "tokenizer" / "tokenizer.json"))
    if tokenizer.get_vocab_size() > settings.vocab_size:
        raise InvalidValueError(
            f"the tokenizer in {args.out / 'data'} has {tokenizer.get_vocab_size()} tokens, but [model] vocab_size of "
            f"{settings.path} is {settings.vocab_size}; give that, or another --out"
        )
    stores = load_stores(args.out / "data", "train")
    made_of = identity(learner.shape, tokenizer, {domain: stores[domain] for domain in shares})
    if learner.start is not None:
        same_shape(learner.start, read_checkpoint(learner.start).get("identity", {}), made_of)
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=MasterOptimizer(learner.weights, optim),
        source=TextSource(tokenizer, stores, shares),
        stages=stages,
        config=config,
        out=args.out,
        identity=made_of,
    )
    if args.resume:
        loop.resume()
    loop.run()
