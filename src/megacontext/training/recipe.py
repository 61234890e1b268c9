"""What the training recipes share: their command line, their configuration file, and the way from both to a run."""

from __future__ import annotations

import argparse
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from megacontext.errors import InvalidValueError
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.loop import LoopConfig, LossFunction, TrainingLoop
from megacontext.training.mixed import GistCut
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores, prepare
from megacontext.training.windows import TextSource

__all__ = ["Learner", "read_stages", "recipe_parser", "train"]


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


def read_stages(tables: list[dict[str, Any]]) -> tuple[Stage, ...]:
    """Stages from their TOML tables."""
    stages = []
    for table in tables:
        batches = tuple(_read_batch(batch) for batch in table["batches"])
        stages.append(Stage(**{**table, "batches": batches}))
    return tuple(stages)


def _read_batch(table: dict[str, Any]) -> BatchKind:
    if "gists" not in table:
        return BatchKind(**table)
    gists = table["gists"]
    pairs = {name: tuple(map(tuple, gists[name])) for name in ("shapes", "joins") if name in gists}
    return BatchKind(**{**table, "gists": GistCut(**{**gists, **pairs})})


def train(args: argparse.Namespace, build: Callable[[dict[str, Any], int], Learner]) -> None:
    """Prepare token arrays (once), then train or resume. ``build`` makes the learner from the settings and the seed.
    Raises InvalidValueError if ``--out`` holds a run that ``--resume`` does not ask for."""
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise InvalidValueError(f"{args.out} holds a run already; add --resume, or give another --out")
    settings = tomllib.loads(args.config.read_text())
    torch.set_num_threads(1)  # at these sizes threads wait for each other
    prepare(args.data, args.packages, args.out / "data", vocab_size=settings["model"]["vocab_size"])
    tokenizer = Tokenizer.from_file(str(args.out / "data" / "tokenizer" / "tokenizer.json"))
    config = LoopConfig(**settings["loop"], max_minutes=args.minutes)
    learner = build(settings, config.seed)
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=MasterOptimizer(learner.weights, OptimConfig(**settings["optim"])),
        source=TextSource(tokenizer, load_stores(args.out / "data", "train"), settings["shares"]),
        stages=read_stages(settings["stage"]),
        config=config,
        out=args.out,
    )
    if args.resume:
        loop.resume()
    loop.run()
