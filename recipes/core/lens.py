"""Teach LensNet what opening blocks saves, and write it into a model folder.

`python recipes/core/lens.py --out RUN --model FOLDER [--rows N] [--processes N]`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import torch
from rich.progress import track
from tokenizers import Tokenizer

from megacontext.bases.core_folder import write_core_folder
from megacontext.errors import MegaContextError
from megacontext.nets.lens_net import FEATURES, LensNet, LensNetConfig
from megacontext.training.core_export import END_OF_TEXT_ID
from megacontext.training.export import TOKENIZER_FILES
from megacontext.training.held_out import held_out_source, nets_with_gists
from megacontext.training.lens_labels import LensSample, Moment, attribute, measure, moment_of
from megacontext.training.lens_model import LensTraining, calibration, hit_report, lens_utilities, train_lens
from megacontext.training.preparation import load_stores
from megacontext.training.puzzles import Puzzle
from megacontext.training.recall import Asking
from megacontext.training.rows import plain_row, puzzle_row, recall_row
from megacontext.training.settings import read_settings
from megacontext.training.windows import TextSource, Window

LENGTH, TAIL, MEASURED, BATCH = 2048, 256, 3, 4
ASKED = ("recall", "puzzles")
Labelled = list[tuple[str, LensSample]]
Maker = Callable[[TextSource, Random], Window]
KINDS: dict[str, Callable[[bool], Maker]] = {
    "recall": lambda test: lambda source, random: recall_row(source, random, LENGTH, Asking(test=test)),
    "puzzles": lambda test: lambda source, random: puzzle_row(source, random, LENGTH, test=test),
    "plain": lambda test: lambda source, random: plain_row(source, random, LENGTH),
}


def moments(make: Maker, source: TextSource, seed: str, *, is_asked: bool) -> Iterator[tuple[Window, Moment]]:
    """Rows whose tail asks for something before it, or rows of text, without end."""
    index = 0
    while True:
        row = make(source, Random(f"{seed}/{index}"))
        moment = moment_of(row, tail_tokens=TAIL, block_tokens=32)
        if moment is not None and bool(moment.evidence) == is_asked:  # a row may lose its only question
            yield row, moment
        index += 1


def label(args: argparse.Namespace, shares: Mapping[str, float], test: bool, part: int) -> Path:
    """Measure this process's part of the rows, questions by counterfactuals and plain text by attribution; where the
    samples are kept. A file, because tensors that are passed between processes take a file handle each."""
    torch.set_num_threads(1)
    nets = nets_with_gists(args.model)
    assert nets.gist_net is not None
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    if test:
        source = held_out_source(args.out, tokenizer, shares)
    else:
        source = TextSource(tokenizer, load_stores(args.out / "data", "train"), shares)
    random = Random(f"{test}/{part}")
    measured: Labelled = []
    for kind, maker in KINDS.items():
        drawn = moments(maker(test), source, f"{kind}/{test}/{part}", is_asked=kind in ASKED)
        count = (args.rows // 4 if test else args.rows) // args.processes
        for _ in track(range(0, count, BATCH), description=f"measuring {kind}", disable=part > 0):
            rows = [next(drawn) for _ in range(BATCH)]
            make = partial(measure, rows=rows) if kind in ASKED else partial(attribute, rows=[row for row, _ in rows])
            samples = make(nets.core, nets.gist_net, tail_tokens=TAIL, num_measured=MEASURED, random=random)
            names = [_asked(*pair) for pair in rows] if kind in ASKED else [kind] * len(samples)
            measured += zip(names, samples, strict=True)
    path = Path(args.out) / "lens" / f"{'test' if test else 'train'}_{part}.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save([{"name": name, **vars(sample)} for name, sample in measured], path)
    return path


def _asked(row: Window, moment: Moment) -> str:
    """What kind of question the moment waits for."""
    fact = next(answer.fact for answer in row.answers if answer.start == moment.horizon[0])
    return fact.key if isinstance(fact, Puzzle) else "fact"


def label_all(args: argparse.Namespace, shares: Mapping[str, float], *, test: bool) -> Labelled:
    """The samples of all processes.

    Small samples that stay between large windows that go would keep glibc from ever giving the windows' memory back
    (15 GB after 1,600 rows): with a fixed threshold, which only new processes read, large ones are mapped on their own.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"  # it makes training many times as slow: for these processes alone
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        paths = list(pool.map(partial(label, args, shares, test), range(args.processes)))
    kept = [sample for path in paths for sample in torch.load(path, weights_only=True)]
    return [(sample.pop("name"), LensSample(**sample)) for sample in kept]


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
    parser.add_argument("--processes", type=int, default=1, help="how many measure at the same time, one core each")
    args = parser.parse_args()
    began = time.monotonic()
    nets = nets_with_gists(args.model)
    shares = read_settings(args.config).shares
    samples = [sample for _, sample in label_all(args, shares, test=False)]
    torch.set_num_threads(1)  # at this size threads wait for each other
    torch.manual_seed(0)
    lens = LensNet(LensNetConfig(width=nets.core.config.width))
    curve = train_lens(lens, samples, LensTraining())
    files = [args.model / name for name in TOKENIZER_FILES]
    nets = dataclasses.replace(nets, lens_net=lens.to(torch.bfloat16))
    write_core_folder(args.model, nets, files, eos_token_id=END_OF_TEXT_ID)
    lens.float()  # judged as it is written
    held_out = label_all(args, shares, test=True)
    by_kind: dict[str, list[LensSample]] = defaultdict(list)
    for name, sample in held_out:
        by_kind[name].append(sample)
    judged = {kind: report(lens, some) for kind, some in sorted(by_kind.items()) if kind != "plain"}
    questions = [sample for kind in judged for sample in by_kind[kind]]
    told = {"questions": calibration(lens, questions), "plain": calibration(lens, by_kind["plain"])}
    found = {"loss": curve, "hits": judged, "calibration": told, "rows": args.rows}
    (args.model / "lens.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(f"{len(samples)} samples, {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except MegaContextError as error:
        raise SystemExit(str(error)) from error
