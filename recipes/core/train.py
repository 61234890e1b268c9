"""Train the native core on raw tokens: `python recipes/core/train.py --data FOLDER --out FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megacontext.errors import MegaContextError
from megacontext.nets.core import CoreConfig
from megacontext.training.core_model import build_core, compile_core, window_loss
from megacontext.training.recipe import Learner, parse_arguments, train


def build(table: dict[str, Any], seed: int) -> Learner:
    """A core that reads windows of raw tokens: the base that learns memory later."""
    core = build_core(CoreConfig(**table), seed=seed)
    compile_core(core)
    return Learner(core.named_parameters(), lambda *batch: window_loss(core, *batch))


if __name__ == "__main__":
    try:
        train(parse_arguments(__doc__, config=Path(__file__).with_name("config.toml")), build)
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
