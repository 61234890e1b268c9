"""Train the native core, then teach it memory.

`python recipes/core/train.py --data FOLDER --out BASE`
`python recipes/core/train.py --data FOLDER --out MEMORY --config recipes/core/memory.toml --start BASE/checkpoint.pt`
"""

from __future__ import annotations

from pathlib import Path

import torch

from megacontext.errors import InvalidValueError, MegaContextError
from megacontext.nets.core import CoreConfig
from megacontext.nets.gist_net import GistNet, GistNetConfig
from megacontext.training.core_export import core_prefix, load_masters
from megacontext.training.core_model import build_core, compile_core, window_loss
from megacontext.training.memory_model import MemoryConfig, MemoryLearner
from megacontext.training.recipe import Learner, recipe_parser, train
from megacontext.training.settings import Settings


def build(settings: Settings, seed: int, start: Path | None) -> Learner:
    """A core that reads raw tokens; with a `[gist_net]` table, one that learns to read gists, too."""
    core = build_core(settings.read("model", CoreConfig), seed=seed)
    if start is not None:
        if not start.is_file():
            raise InvalidValueError(f"--start {start} is no file; give the checkpoint.pt of an earlier run")
        masters = torch.load(start, weights_only=True)["optimizer"]["masters"]
        load_masters(core, masters, prefix=core_prefix(masters))
    if "gist_net" not in settings:
        compile_core(core)
        return Learner(core.named_parameters(), lambda batch: window_loss(core, *batch.tensors))
    gist_net = GistNet(settings.read("gist_net", GistNetConfig)).to(torch.bfloat16)
    learner = MemoryLearner(core, gist_net, settings.read("memory", MemoryConfig))
    learner.compile_parts()
    return Learner(learner.learned_parameters(), learner.loss)


def main() -> None:
    """Train or resume what the configuration describes."""
    parser = recipe_parser(__doc__, config=Path(__file__).with_name("base.toml"))
    parser.add_argument("--start", type=Path, help="checkpoint whose core to go on from")
    args = parser.parse_args()
    train(args, lambda settings, seed: build(settings, seed, args.start))


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
