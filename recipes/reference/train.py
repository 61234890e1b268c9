"""Train the bundled reference model: `python recipes/reference/train.py --data FOLDER --out FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megacontext.errors import MegaContextError
from megacontext.training.recipe import Learner, parse_arguments, train
from megacontext.training.reference import ReferenceConfig, build_reference, compile_layers, window_loss


def build(table: dict[str, Any], seed: int) -> Learner:
    """A Qwen3 decoder that reads raw tokens."""
    model = build_reference(ReferenceConfig(**table), seed=seed)
    compile_layers(model)
    return Learner(model.named_parameters(), lambda *batch: window_loss(model, *batch))


if __name__ == "__main__":
    try:
        train(parse_arguments(__doc__, config=Path(__file__).with_name("config.toml")), build)
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
