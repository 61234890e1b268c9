"""What cleaning is worth to a model: the same tiny core on cleaned and on uncleaned text, several seeds.

`python recipes/core/cleaning.py --cleaned RUN --uncleaned RUN [--steps N] [--seeds N]`

Both folders come from `prepare.py`, the second with `--uncleaned --tokenizer RUN/data/tokenizer`. Both arms are judged
on the same windows of the cleaned held-out text, in nats a token; a difference below zero says that cleaning helps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
import torch
from rich.progress import track

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.intervals import Mean
from megacontext.nets.core import Core
from megacontext.nets.shapes import CoreConfig
from megacontext.training.core_model import build_core, window_loss
from megacontext.training.curriculum import BatchKind, Stage, draw_batch
from megacontext.training.enough_text import refuse_short
from megacontext.training.held_out import run_tokenizer
from megacontext.training.optim import MasterOptimizer, OptimConfig, schedule
from megacontext.training.preparation import DOMAINS, load_stores
from megacontext.training.rows import plain_row
from megacontext.training.settings import read_settings
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import TextSource
from megacontext.values import whole_number

LENGTH, ROWS = 128, 8
JUDGED_ROWS = 96
SHAPE = CoreConfig(
    vocab_size=4096, width=64, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, mlp_width=176, rotary_dims=16
)
STAGE = Stage(name="plain", batches=(BatchKind(name="plain", share=1.0, rows=ROWS, length=LENGTH, mix={"plain": 1.0}),))


def train_core(source: TextSource, *, seed: int, steps: int) -> Core:
    """A core after `steps` batches of plain text."""
    core = build_core(SHAPE, seed=seed).float()  # faster than bfloat16 where there are no matrix units
    optimizer = MasterOptimizer(core.named_parameters(), OptimConfig())
    for step in track(range(steps), description=f"seed {seed}", transient=True):
        loss, _ = window_loss(core, *draw_batch(source, STAGE, seed=seed, step=step).tensors, compiled=False)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(schedule(step / steps, step))
    return core


@torch.no_grad()
def judge(core: Core, source: TextSource) -> float:
    """Mean nats a token over windows of one domain, the same ones for every core."""
    losses = []
    for first in range(0, JUDGED_ROWS, ROWS):
        rows = [plain_row(source, Random(f"judge/{index}"), LENGTH) for index in range(first, first + ROWS)]
        batch = (np.stack([getattr(row, part) for row in rows]) for part in ("tokens_T", "targets_T", "weights_T"))
        losses.append(float(window_loss(core, *map(torch.from_numpy, batch), compiled=False)[0]))
    return float(np.mean(losses))


def read_stores(run: Path, side: str, domains: Iterable[str]) -> dict[str, TokenStore]:
    """The token arrays of a run; InvalidValueError where a domain has less than a row."""
    stores = load_stores(run / "data", side)
    refuse_short(
        {domain: len(store.ids_N) for domain, store in stores.items()},
        dict.fromkeys(domains, LENGTH + 2),
        where={domain: str(run / "data" / f"{domain}_{side}.npz") for domain in stores},
        fix="prepare a new folder from more text",
    )
    return stores


def main() -> None:
    """Train both arms with each seed, judge them, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cleaned", type=Path, required=True)
    parser.add_argument("--uncleaned", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("base.toml"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=6)
    args = parser.parse_args()
    whole_number("--steps", args.steps, least=1)
    whole_number("--seeds", args.seeds, least=2)  # one seed tells nothing of others
    shares = read_settings(args.config).shares
    torch.set_num_threads(1)
    began = time.monotonic()
    runs = {"cleaned": args.cleaned, "uncleaned": args.uncleaned}
    tokenizer, *others = (run_tokenizer(run) for run in runs.values())
    if any(other.get_vocab() != tokenizer.get_vocab() for other in others):
        raise InvalidValueError(
            "the folders have different tokenizers; prepare the second with --tokenizer of the first"
        )
    if tokenizer.get_vocab_size() > SHAPE.vocab_size:
        raise InvalidValueError(
            f"the tokenizer in {args.cleaned} has {tokenizer.get_vocab_size()} tokens; prepare with {SHAPE.vocab_size}"
        )
    arms = {name: TextSource(tokenizer, read_stores(run, "train", shares), shares) for name, run in runs.items()}
    held_out = read_stores(args.cleaned, "held_out", DOMAINS)
    judged = {domain: TextSource(tokenizer, held_out, {domain: 1.0}) for domain in DOMAINS}
    nats: dict[str, dict[str, list[float]]] = {domain: {name: [] for name in arms} for domain in DOMAINS}
    for seed in range(args.seeds):
        for name, source in arms.items():
            core = train_core(source, seed=seed, steps=args.steps)
            for domain, text in judged.items():
                nats[domain][name].append(judge(core, text))
    report = {"steps": args.steps, "seeds": args.seeds, "tokens": args.steps * ROWS * LENGTH}
    for domain in DOMAINS:
        means = {name: float(np.mean(values)) for name, values in nats[domain].items()}
        differences_S = np.array(nats[domain]["cleaned"]) - np.array(nats[domain]["uncleaned"])
        difference = Mean.of(differences_S)
        report[domain] = {**means, "difference": difference.value, "interval": list(difference.interval)}
    print(json.dumps({**report, "minutes": round((time.monotonic() - began) / 60, 1)}, indent=2))


if __name__ == "__main__":
    run_script(main)
