"""Teach LensNet what opening blocks saves, and write it into a model folder.

`python recipes/core/lens.py --out RUN --model FOLDER [--rows N] [--measured N] [--processes N] [--judge]`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import torch
from rich.progress import track

from megacontext.bases.core_folder import write_lens
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.focus.lenses.features import TOKENS_BEFORE
from megacontext.nets.lens_net import LensNet
from megacontext.nets.shapes import FEATURES, LensNetConfig
from megacontext.training.card import read_figures, write_figures
from megacontext.training.held_out import (
    device_option,
    held_out_source,
    nets_with_gists,
    refuse_other_tokenizer,
    refuse_short_windows,
)
from megacontext.training.lens_labels import LensSample, label, read_samples
from megacontext.training.lens_model import (
    LensTraining,
    calibration,
    calibration_figures,
    hit_report,
    lens_utilities,
    train_lens,
    words_lens,
)
from megacontext.training.lens_stability import moments_by_text, stability, stability_figures
from megacontext.training.moments import Moment, moments_of
from megacontext.training.preparation import load_stores
from megacontext.training.puzzles import Puzzle
from megacontext.training.recall import Asking
from megacontext.training.recipe import training_device
from megacontext.training.rows import plain_row, puzzle_row, recall_row
from megacontext.training.settings import read_settings
from megacontext.training.tokens import read_tokenizer
from megacontext.training.trackers import open_trackers
from megacontext.training.windows import TextSource, Window
from megacontext.values import shown, whole_number

BLOCK, TAIL, BATCH = 32, 512, 4
LENGTH = 2048  # as long as the core's rows: 48 blocks before the tail
TEXT_AFTER = 256  # tokens of the tail that stand between the blocks and the first moment of text, at least
TEXT_STEP = 8  # tokens between two moments of text to learn from; it is judged at every other one
LABELS = 2  # of the rule by which evidence is measured: 2 takes off what any block brings
TEST_SHARE = 5  # to judge by, a fifth as many rows as to learn from
MEASURED_SHARE = 4  # of questions, a quarter as many rows have their blocks opened: for calibration
NUM_JUDGED = 128  # of each kind, while a lens learns
NUM_TEXTS = 16  # whose moments are followed, while a lens learns
QUESTIONS = {"recall": 0.3, "puzzles": 0.25}  # how often training draws them; text has the rest
Labelled = list[tuple[str, LensSample]]
Maker = Callable[[TextSource, Random], Window]
MAKERS: dict[str, Callable[[bool], Maker]] = {
    "recall": lambda test: lambda source, random: recall_row(source, random, LENGTH, Asking(test=test)),
    "puzzles": lambda test: lambda source, random: puzzle_row(source, random, LENGTH, test=test),
    "plain": lambda test: lambda source, random: plain_row(source, random, LENGTH),
}


def rows_with_moments(
    make: Maker, source: TextSource, seed: str, *, asking: bool, step_tokens: int
) -> Iterator[tuple[Window, list[Moment]]]:
    """Rows whose tail has moments to ask at, without end."""
    index = 0
    while True:
        row = make(source, Random(f"{seed}/{index}"))
        moments = moments_of(row, tail_tokens=TAIL, block_tokens=BLOCK, text_after=TEXT_AFTER, step_tokens=step_tokens)
        if moments and (moments[0].answer is not None) == asking:  # a row may lose its only question
            yield row, moments
        index += 1


def label_part(args: argparse.Namespace, shares: Mapping[str, float], test: bool, part: int) -> Path:
    """Label this process's part of the rows; the folder where the samples are kept.

    Files, because tensors that are passed between processes take a file handle each, and one for each batch, because
    small samples that stay between large windows that go would keep the allocator from giving memory back.
    """
    torch.set_num_threads(1)
    nets = nets_with_gists(args.model, with_lens=False, device=training_device(args.device))
    assert nets.gist_net is not None
    tokenizer = read_tokenizer(args.model)
    if test:
        source = held_out_source(args.out, tokenizer, shares)
    else:
        source = TextSource(tokenizer, load_stores(args.out / "data", "train"), shares)
    path = Path(args.out) / "lens" / f"{'test' if test else 'train'}_{part}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for kind, maker in MAKERS.items():
        step = 2 * TEXT_STEP if test else TEXT_STEP
        seed = f"{kind}/{test}/{part}"
        drawn = rows_with_moments(maker(test), source, seed, asking=kind in QUESTIONS, step_tokens=step)
        measured_rows = args.measured // (MEASURED_SHARE if kind in QUESTIONS else 1)
        for measured, num_rows in ((True, measured_rows), (False, args.rows if kind in QUESTIONS else 0)):
            count = num_rows // (TEST_SHARE if test else 1) // args.processes
            what = f"{'measuring' if measured else 'labelling'} {kind}"
            for index in track(range(0, count, BATCH), description=what, disable=part > 0):
                rows = [next(drawn) for _ in range(BATCH)]
                samples = label(nets.core, nets.gist_net, rows, tail_tokens=TAIL, measured=measured)
                names = [_name(kind, moment) for _, moments in rows for moment in moments]
                told = [{"name": name, **vars(sample)} for name, sample in zip(names, samples, strict=True)]
                torch.save(told, path / f"{kind}_{'measured' if measured else 'asked'}_{index:06}.pt")
    return path


def _name(kind: str, moment: Moment) -> str:
    """What kind of question the moment waits for, or that it waits for text."""
    if moment.answer is None:
        return kind
    fact = moment.answer.fact
    return fact.key if isinstance(fact, Puzzle) else "fact"


def label_all(args: argparse.Namespace, shares: Mapping[str, float], *, test: bool) -> None:
    """Let all processes label, unless the samples of an earlier call are to be kept."""
    made = {"model": _digests(args.model), "tail": TAIL, "length": LENGTH, "tokens_before": TOKENS_BEFORE}
    made |= {"features": list(FEATURES), "text_after": TEXT_AFTER, "text_step": TEXT_STEP, "labels": LABELS}
    made |= {"rows": args.rows, "measured": args.measured, "shares": dict(shares)}
    told = args.out / "lens" / f"{'test' if test else 'train'}.json"
    if args.keep and told.exists():
        kept = read_figures(told, measure="recipes/core/lens.py")
        if other := next((name for name in made if kept.get(name) != made[name]), None):
            raise InvalidValueError(
                f"{told} says that its samples were made with other {other} ({shown(kept.get(other))}, now "
                f"{shown(made[other])}); leave out --keep"
            )
        return
    if args.keep:
        print(f"{told} is not there, so there are no samples to keep: labelling")
    told.unlink(missing_ok=True)
    for folder in _folders(args, test=test):  # of a call with more processes
        shutil.rmtree(folder)
    with _workers(args) as pool:
        list(pool.map(partial(label_part, args, shares, test), range(args.processes)))
    told.write_text(json.dumps(made, indent=2) + "\n")  # all of them are there


def label_kept(args: argparse.Namespace, *, test: bool) -> Labelled:
    """The samples that lie in ``--out``."""
    files = (file for folder in _folders(args, test=test) for file in sorted(folder.glob("*.pt")))
    return [sample for file in files for sample in read_samples(file)]


def _digests(model: Path) -> dict[str, str]:
    """Which core and GistNet the samples are of."""
    files = (model / f"{name}.safetensors" for name in ("core", "gist_net"))
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _folders(args: argparse.Namespace, *, test: bool) -> list[Path]:
    return sorted((args.out / "lens").glob(f"{'test' if test else 'train'}_*/"))


def _workers(args: argparse.Namespace) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn"))


def drawn_weights(names: Sequence[str]) -> list[float]:
    """How often each sample is drawn, so that kinds have their shares however many samples they have."""
    kinds = [name if name == "plain" else "recall" if name == "fact" else "puzzles" for name in names]
    counts = Counter(kinds)
    shares = {**QUESTIONS, "plain": 1 - sum(QUESTIONS.values())}
    return [shares[kind] / counts[kind] for kind in kinds]


def teach(args: argparse.Namespace, width: int, seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights of a lens from a seed of its own, taught on the samples that lie in ``--out``, and how its loss
    fell. Seeds are taught side by side, a process and a thread each: at this size threads wait for each other."""
    torch.set_num_threads(1)
    labelled = label_kept(args, test=False)
    torch.manual_seed(seed)
    lens = LensNet(LensNetConfig(width=width))
    weights = drawn_weights([name for name, _ in labelled])
    watch = partial(track, description=f"teaching lens {seed}", disable=seed > 0)
    (held_out, texts), out = judged(label_kept(args, test=True)), args.out / "lens" / f"seed_{seed}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with (out / "log.jsonl").open("w") as log, ExitStack() as closing:
        trackers = open_trackers([], out, {})
        for tracker in trackers:
            closing.callback(tracker.close)

        def judge(step: int) -> None:
            figures = calibration_figures(lens, held_out) | stability_figures(lens, texts)
            log.write(json.dumps({"step": step, **figures}) + "\n")
            log.flush()
            for tracker in trackers:
                tracker.log(figures, step)

        samples = [sample for _, sample in labelled]
        config = LensTraining(seed=seed, num_steps=args.steps)
        curve = train_lens(lens, samples, config, weights, watch=watch, judge=judge)
    return lens.state_dict(), curve


def write_beside(model: Path, lens: LensNet, made: Mapping[str, str]) -> None:
    """Write a lens beside the nets that it was taught with, and nothing else; say what was measured of the one before.

    made: the digests of these nets. InvalidValueError if the folder holds others by now.
    """
    if _digests(model) != made:
        raise InvalidValueError(
            f"{model} was written again since its core and GistNet were read, and a lens is taught beside these alone; "
            "teach it again"
        )
    had_lens = (model / "lens_net.safetensors").exists()
    write_lens(model, lens)
    (model / "lens.json").unlink(missing_ok=True)  # of the lens before; this one is judged next
    if had_lens and (model / "evaluation.json").exists():
        print(
            f"{model / 'evaluation.json'}: what it says of a lens (recall, wordings, text) is of the one before; "
            "measure these again (recipes/core/evaluate.py --only)"
        )


def stability_report(lens: LensNet, text: Sequence[LensSample]) -> dict[str, dict[str, float]]:
    """Swap rate and residency on all held-out text, of the lens and of the words alone."""
    texts = moments_by_text(text)
    return {"lens": stability(partial(lens_utilities, lens), texts), "words": stability(words_lens, texts)}


def judged(kept: Labelled) -> tuple[dict[str, list[LensSample]], list[list[LensSample]]]:
    """To judge by while a lens learns: some held-out samples of questions and of text whose blocks were opened, and all
    moments of some texts, one after the other."""
    kinds: dict[str, list[LensSample]] = {"questions": [], "plain": []}
    for name, sample in kept:
        if not sample.saved_LC[0].isnan().any():
            kinds["plain" if name == "plain" else "questions"].append(sample)
    texts = moments_by_text(kinds["plain"])[:NUM_TEXTS]
    return {kind: some[:: max(1, len(some) // NUM_JUDGED)][:NUM_JUDGED] for kind, some in kinds.items()}, texts


def report(lens: LensNet, samples: Sequence[LensSample]) -> dict[str, object]:
    """Hits of the lens, and of the words alone."""
    return dict(
        hit_report(
            {
                "lens": lambda sample: lens_utilities(lens, sample),
                "words": words_lens,
            },
            samples,
        )
    )


def _arguments() -> argparse.Namespace:
    """Those of the command line, checked as far as they stand alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where training wrote token arrays")
    parser.add_argument(
        "--model", type=Path, required=True, help="model folder with a GistNet; a lens takes the place of its own"
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--rows", type=int, default=3000, help="rows of each kind of question for training")
    parser.add_argument("--measured", type=int, default=300, help="rows of text whose blocks are opened one by one")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="how many label, and how many seeds are taught, at the same time, one core each",
    )
    parser.add_argument("--steps", type=int, default=LensTraining.num_steps, help="of teaching, each of 32 samples")
    parser.add_argument("--seeds", type=int, default=1, help="lenses to teach; the first is written, all are judged")
    parser.add_argument(
        "--judge", action="store_true", help="teach none: judge the one that the model has, from a run with [lens]"
    )
    parser.add_argument("--keep", action="store_true", help="take the samples that an earlier call left in --out")
    device_option(parser)  # to label on; a lens is so small that it learns on the CPU
    args = parser.parse_args()
    training_device(args.device)
    for name in ("processes", "seeds", "steps", "measured", "rows"):
        whole_number(f"--{name}", getattr(args, name), least=1)
    least = BATCH * TEST_SHARE * args.processes
    for name, smallest in (("measured", least * MEASURED_SHARE), ("rows", least)):
        whole_number(f"--{name}", getattr(args, name), least=smallest)  # some of each kind to judge by
    return args


def main() -> None:
    """Label, train, judge on held-out names and texts, write."""
    args = _arguments()
    began = time.monotonic()
    shares = read_settings(args.config).shares
    core, made = nets_with_gists(args.model, with_lens=False).core, _digests(args.model)
    refuse_short_windows(core, args.model, LENGTH)
    refuse_other_tokenizer(args.out / "data" / "tokenizer", read_tokenizer(args.model))
    width = core.config.width
    if args.judge:
        lens = nets_with_gists(args.model).lens_net
        if lens is None:
            raise InvalidValueError(f"{args.model} has no lens to judge; leave out --judge to teach one")
        label_all(args, shares, test=True)
        tell(args.model, judgement(lens.float(), label_kept(args, test=True)))
        return
    label_all(args, shares, test=False)
    label_all(args, shares, test=True)
    with _workers(args) as pool:
        taught = list(pool.map(partial(teach, args, width), range(args.seeds)))
    lenses = [LensNet(LensNetConfig(width=width)) for _ in taught]
    for one, (weights, _) in zip(lenses, taught, strict=True):
        one.load_state_dict(weights)
    lens, (_, curve) = lenses[0], taught[0]
    torch.set_num_threads(args.processes)
    lens.to(torch.bfloat16).float()  # judged as it is written
    kept = label_kept(args, test=True)
    questions = [sample for name, sample in kept if name != "plain"]
    samples = Counter(name for name, _ in label_kept(args, test=False))
    found = {"loss": curve, **judgement(lens, kept), "seeds": [report(other, questions) for other in lenses]}
    write_beside(args.model, lens.to(torch.bfloat16), made)
    tell(args.model, {**found, "samples": dict(sorted(samples.items()))})
    print(f"{samples.total()} samples, {time.monotonic() - began:.0f} seconds")


def judgement(lens: LensNet, kept: Labelled) -> dict[str, object]:
    """Hits by kind of question, how what it says compares with what was saved, and how steady it is on text."""
    by_kind: dict[str, list[LensSample]] = defaultdict(list)
    for name, sample in kept:
        by_kind[name].append(sample)
    text = by_kind.pop("plain")
    questions = [sample for some in by_kind.values() for sample in some]
    measured = [sample for sample in questions if not sample.saved_LC[0].isnan().any()]
    return {
        "hits": {kind: report(lens, some) for kind, some in sorted(by_kind.items())} | {"all": report(lens, questions)},
        "calibration": {"questions": calibration(lens, measured), "plain": calibration(lens, text)},
        "stability": stability_report(lens, text),
    }


def tell(model: Path, found: dict[str, object]) -> None:
    """Write what was found beside the model, and print it."""
    write_figures(model / "lens.json", found, of=f"the lens of {model}")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    run_script(main)
