"""Train the bundled reference model: `python recipes/reference/train.py --data FOLDER --out FOLDER`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from megacontext.cli.failures import run_script
from megacontext.training.recipe import Learner, RunArguments, recipe_parser, train
from megacontext.training.reference import ReferenceConfig, build_reference, compile_layers, window_loss
from megacontext.training.settings import Settings


def build(settings: Settings, seed: int) -> Learner:
    """A decoder of one of the families that reads raw tokens, in the precision that the device multiplies fast."""
    config = settings.read("model", ReferenceConfig)
    model = build_reference(config, seed=seed)
    compile_layers(model)
    return Learner(
        model.named_parameters(),
        lambda batch: window_loss(model, *batch.tensors),
        {"model": asdict(config)},
        parts={"model": model},
    )


def main() -> None:
    """Train or resume what the configuration describes."""
    parser = recipe_parser(__doc__, config=Path(__file__).with_name("config.toml"))
    train(RunArguments.parse(parser.parse_args()), build)


if __name__ == "__main__":
    run_script(main)
