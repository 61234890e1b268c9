"""Train the bundled reference model: `python recipes/reference/train.py --data FOLDER --out FOLDER`."""

from __future__ import annotations

import argparse
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from megacontext.errors import MegaContextError
from megacontext.training.curriculum import BatchKind, Stage
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores, prepare
from megacontext.training.reference import ReferenceConfig, build_reference, compile_layers, window_loss
from megacontext.training.windows import TextSource

HERE = Path(__file__).parent


def read_stages(tables: list[dict[str, Any]]) -> tuple[Stage, ...]:
    """Stages from their TOML tables."""
    stages = []
    for table in tables:
        batches = tuple(BatchKind(**batch) for batch in table["batches"])
        stages.append(Stage(**{**table, "batches": batches}))
    return tuple(stages)


def main() -> None:
    """Prepare token arrays (once), then train or resume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with books/ and knowledge/")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="*",
        default=[Path(sysconfig.get_paths()["purelib"])],
        help="site-packages folders to read code from (default: this environment's)",
    )
    parser.add_argument("--out", type=Path, required=True, help="token arrays, log and checkpoint go here")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--minutes", type=float, help="end after this many minutes; rates then follow the clock")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args()
    if not args.resume and (args.out / "checkpoint.pt").exists():
        raise SystemExit(f"{args.out} holds a run already; add --resume, or give another --out")
    settings = tomllib.loads(args.config.read_text())
    torch.set_num_threads(1)
    model_config = ReferenceConfig(**settings["model"])
    prepare(args.data, args.packages, args.out / "data", vocab_size=model_config.vocab_size)
    tokenizer = Tokenizer.from_file(str(args.out / "data" / "tokenizer" / "tokenizer.json"))
    source = TextSource(tokenizer, load_stores(args.out / "data", "train"), settings["shares"])
    config = LoopConfig(**settings["loop"], max_minutes=args.minutes)
    model = build_reference(model_config, seed=config.seed)
    compile_layers(model)
    loop = TrainingLoop(
        loss=lambda ids, targets, weights: window_loss(model, ids, targets, weights),
        optimizer=MasterOptimizer(model.named_parameters(), OptimConfig(**settings["optim"])),
        source=source,
        stages=read_stages(settings["stage"]),
        config=config,
        out=args.out,
    )
    if args.resume:
        loop.resume()
    loop.run()


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
