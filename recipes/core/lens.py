"""Teach LensNet what opening blocks saves, and write it into a model folder.

`python recipes/core/lens.py --out RUN --model FOLDER [--rows N]`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from rich.progress import track
from tokenizers import Tokenizer

from megacontext.bases.core_folder import CoreNets, write_core_folder
from megacontext.errors import MegaContextError
from megacontext.nets.lens_net import FEATURES, LensNet, LensNetConfig
from megacontext.training.core_export import END_OF_TEXT_ID
from megacontext.training.export import TOKENIZER_FILES
from megacontext.training.held_out import held_out_source, nets_with_gists
from megacontext.training.lens_labels import LensSample, Moment, measure, moment_of
from megacontext.training.lens_model import LensTraining, hit_report, lens_utilities, train_lens
from megacontext.training.preparation import load_stores
from megacontext.training.recall import Asking
from megacontext.training.rows import plain_row, puzzle_row, recall_row
from megacontext.training.settings import read_settings
from megacontext.training.windows import TextSource, Window

LENGTH, TAIL, MEASURED, BATCH = 2048, 256, 8, 4
Maker = Callable[[TextSource, Random], Window]
KINDS: dict[str, Callable[[bool], Maker]] = {
    "recall": lambda test: lambda source, random: recall_row(source, random, LENGTH, Asking(test=test)),
    "puzzles": lambda test: lambda source, random: puzzle_row(source, random, LENGTH, test=test),
    "plain": lambda test: lambda source, random: plain_row(source, random, LENGTH),
}


def moments(make: Maker, source: TextSource, seed: str) -> Iterator[tuple[Window, Moment]]:
    """Rows whose tail asks for something before it, without end."""
    index = 0
    while True:
        row = make(source, Random(f"{seed}/{index}"))
        moment = moment_of(row, tail_tokens=TAIL, block_tokens=32)
        if moment is not None:
            yield row, moment
        index += 1


def label(nets: CoreNets, source: TextSource, kind: str, count: int, *, test: bool) -> list[LensSample]:
    """Measured samples of one kind of row."""
    assert nets.gist_net is not None
    drawn = moments(KINDS[kind](test), source, f"{kind}/{test}")
    random = Random(f"{kind}/{test}")
    samples: list[LensSample] = []
    for _ in track(range(0, count, BATCH), description=f"measuring {kind}"):
        rows = [next(drawn) for _ in range(BATCH)]
        samples += measure(nets.core, nets.gist_net, rows, tail_tokens=TAIL, num_measured=MEASURED, random=random)
    return samples


def report(lens: LensNet, samples: Sequence[LensSample]) -> dict[str, object]:
    """Hits of the lens with both keys, and of the words alone."""
    lexical = FEATURES.index("lexical")
    return dict(
        hit_report(
            {
                "lens, hidden states": lambda sample: lens_utilities(lens, sample, kind="hidden"),
                "lens, stored gists": lambda sample: lens_utilities(lens, sample, kind="gist"),
                "lexical": lambda sample: sample.features_CF[:, lexical],
            },
            samples,
        )
    )


def main() -> None:
    """Measure, train, judge on held-out names and texts, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote token arrays")
    parser.add_argument("--model", type=Path, required=True, help="model folder with a GistNet; the lens is added")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--rows", type=int, default=1600, help="rows of each kind to measure for training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    nets = nets_with_gists(args.model)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    shares = read_settings(args.config).shares
    source = TextSource(tokenizer, load_stores(args.out / "data", "train"), shares)
    samples = [sample for kind in KINDS for sample in label(nets, source, kind, args.rows, test=False)]
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=nets.core.config.width))
    curve = train_lens(lens, samples, LensTraining())
    held_out = held_out_source(args.out, tokenizer, shares)
    count = max(BATCH, args.rows // 8)
    judged = {kind: report(lens, label(nets, held_out, kind, count, test=True)) for kind in ("recall", "puzzles")}
    files = [args.model / name for name in TOKENIZER_FILES]
    nets = dataclasses.replace(nets, lens_net=lens.to(torch.bfloat16))
    write_core_folder(args.model, nets, files, eos_token_id=END_OF_TEXT_ID)
    (args.model / "lens.json").write_text(json.dumps({"loss": curve, "hits": judged}, indent=2) + "\n")
    print(json.dumps(judged, indent=2))
    print(f"{len(samples)} samples, {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
