"""How losses fall with weights and tokens: small runs, fitted curves, a picture, and what they say of sizes M and L.

`python recipes/core/scaling.py --run RUN --out FOLDER [--tokens N ...] [--widths N ...] [--seeds N] \
[--model MODEL]`

Every run is a core with its GistNet, trained from nothing by scaling.toml and judged on held-out text and names. Runs
that are in FOLDER already are not repeated, and curves go through all that it holds: several processes can share the
work, each with widths of its own, and a last call fits. Weights are counted without embedding and head. How losses
fall with the length of the window is measured on MODEL, which knows how to use it: the same tokens after more context.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig
from megacontext.training.card import read_figures
from megacontext.training.core_recipe import build_learner
from megacontext.training.gauges import num_weights
from megacontext.training.held_out import CPU, core_logits, device_option, held_out_source, processor, run_tokenizer
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.memory_windows import CONTROLS, score_windows
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores
from megacontext.training.recall import Asking
from megacontext.training.recipe import training_device
from megacontext.training.rows import aligned_row
from megacontext.training.scaling import Curve, Point, PowerLaw, fit_curve, fit_power, left_out_curves, refuse_few
from megacontext.training.scoring import spread_windows, token_nlls
from megacontext.training.settings import Settings, read_settings
from megacontext.training.text_scoring import text_rows
from megacontext.training.windows import TextSource
from megacontext.values import number, whole_number

LAYERS = {48: 2, 96: 3, 144: 4, 192: 4, 256: 5}  # by width
CONTEXTS = (32, 64, 128, 256, 512)
RATIOS = (16, 4, 1)  # vectors of a gist
WIDEST = "32:1"
OF_ANSWERS = ("recall_nats", "first_digit_nats", "gist_recall_nats", "gist_first_digit_nats")
PARTS = ("seed", "weights", "tokens", "formed_after", "nats", "nats_by_context", "next_64", *OF_ANSWERS)  # of a run
RESULT = "result.json"
DIGITS = ("answers", "first digits")
PANELS = 4  # a row of the picture
SOURCES = ("tokens", "gists, 2:1", "gists, 8:1", f"gists, {WIDEST}")
DRAWN = (
    "text",
    *(f"answers from {source}" for source in SOURCES),
    "first digits from gists, 8:1",
    f"delta-NLL@64, {WIDEST}",
)
LARGER = {"M": ("base_m.toml", 1e9), "L": ("base_l.toml", 1e10)}
BLOCK, FAR = 32, 256  # tokens of a gist; of text before what it is judged by
ASKED = Asking(test=True, key="code")
PER_STEP = 4000  # tokens of a step, about
JUDGED = 48
CHANCE = 2.25  # nats of a digit; who knows none needs ln 10 = 2.30
WINDOW_CONTEXTS = (32, 64, 128, 256, 512, 1024, 2048, 4032)  # the last with what is scored: what the core was made for
LEARNT_CONTEXT = 2048  # the longest rows that it learnt from
SCORED_TOKENS = 64


Law = Callable[[float, float], float]
"""Nats by numbers of weights and tokens."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a measure is by weights and tokens, the runs that say so, what it would be without each of them, and the
    curve, where it is one."""

    at: Law
    points: list[Point]
    without: list[Law]
    curve: Curve | None = None

    @property
    def errors(self) -> list[float]:
        """What is said too much of each run, in nats, where it is left out."""
        return [
            law(point.weights, point.tokens) - point.nats
            for law, point in zip(self.without, self.points, strict=bool(self.without))
        ]

    def foretold(self, weights: float, tokens: float) -> dict[str, float | list[float]]:
        """Nats of a larger run, and the least and most that is said of it where a run is left out."""
        said = [law(weights, tokens) for law in self.without]
        return {
            "nats": round(self.at(weights, tokens), 3),
            "without_one": [round(min(said), 3), round(max(said), 3)] if said else [],
        }


def sized(settings: Settings, width: int, num_steps: int, seed: int) -> Settings:
    """The settings for a core of another width, heads of 48 or 64."""
    num_heads = max(1, width // 48)
    head_dim = 48 if width % 48 == 0 else 64
    shape = {"width": width, "num_layers": LAYERS[width], "num_heads": num_heads, "num_kv_heads": 1}
    shape |= {"head_dim": head_dim, "mlp_width": 16 * (11 * width // 64), "rotary_dims": head_dim // 2}
    heads = max(1, width // 48)
    gists = {"width": width, "num_heads": heads, "mlp_width": 3 * width // 2, "num_pool_heads": 2 * heads}
    tables = dict(settings.tables)
    tables["model"] = {**settings.table("model"), **shape}
    tables["gist_net"] = {**settings.table("gist_net"), **gists}
    tables["memory"] = {**settings.table("memory"), "reconstructor_width": 4 * width}
    tables["loop"] = {**settings.table("loop"), "num_steps": num_steps, "seed": seed}
    return replace(settings, tables=tables)


def texts_of(run: Path, shares: dict[str, float]) -> tuple[TextSource, TextSource]:
    """What the token arrays of a run hold, to learn from and to judge by; InvalidValueError if there are none."""
    tokenizer = run_tokenizer(run)
    source = TextSource(tokenizer, load_stores(run / "data", "train"), shares)
    return source, held_out_source(run, tokenizer, shares)


def one_run(
    settings: Settings,
    source: TextSource,
    held_out: TextSource,
    out: Path,
    *,
    start: Path | None = None,
    compiled: bool = True,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Train what the settings say for so many steps, from nothing or from a model, and judge it. formed_after:
    tokens until its first stage ended, if it did; places: errors of the index head, if it was asked for; sigma_factor:
    what every sigma is multiplied by, 1 unless it was learnt."""
    began = time.monotonic()
    config = settings.read("loop", LoopConfig)
    learner = build_learner(settings, config.seed, start=start, compiled=compiled)
    learner.place(device)
    core, gist_net = learner.parts["core"], learner.parts["GistNet"]
    assert isinstance(core, Core)
    assert isinstance(gist_net, GistNet)
    loop = TrainingLoop(
        loss=learner.loss,
        optimizer=MasterOptimizer(learner.weights, settings.read("optim", OptimConfig)),
        source=source,
        stages=settings.stages(),
        config=config,
        out=out,
        gauges=learner.gauges,
    )
    state = loop.run()
    (out / "checkpoint.pt").unlink()
    formed_after = round(state.stage_ends[0]["step"] / state.step * state.tokens) if state.stage_ends else None
    places = {name: value for name, value in learner.gauges.probe().items() if name.startswith("index/")}
    return {
        "model": asdict(settings.read("model", CoreConfig)),
        "gist_net": asdict(settings.read("gist_net", GistNetConfig)),
        "weights": num_weights(core.shifts, core.layers, core.norm),
        "tokens": state.tokens,
        "minutes": round((time.monotonic() - began) / 60, 2),
        "formed_after": formed_after,
        "places": places,
        "sigma_factor": float(core.log_sigma_scale.exp()),
        **judge(core.eval(), gist_net.eval(), held_out),
    }


@torch.no_grad()
def judge(core: Core, gist_net: GistNet, held_out: TextSource) -> dict[str, Any]:
    """Nats on held-out text by tokens of context; nats and hits of an answer's digits from tokens and from gists by
    ratio, and nats of its first digit, which the name alone tells, where the others follow one another; nats of the
    next 64 tokens after 256 of text, and after gists of them, of others, or none in their place."""
    length = CONTEXTS[-1] + 1
    windows = [ids for store in held_out.stores.values() for ids in spread_windows(store, JUDGED // 2, length)]
    nats_WT = token_nlls(core_logits(core), torch.from_numpy(np.stack(windows)))
    edges = [0, *CONTEXTS]
    by_context = {str(stop): float(nats_WT[:, start:stop].mean()) for start, stop in pairwise(edges)}
    rows = [aligned_row(held_out, Random(f"judge/{index}"), 192, ASKED) for index in range(2 * JUDGED)]
    answers_BT = np.stack([row.weights_T > 1 for row in rows])
    firsts_BT = answers_BT & ~np.pad(answers_BT, ((0, 0), (1, 0)))[:, :-1]
    for asked_BT in (answers_BT, firsts_BT):
        asked_BT[:, :-SCORED_TOKENS] = False
    text = [row for store in held_out.stores.values() for row in text_rows(store, JUDGED, length=FAR + SCORED_TOKENS)]
    is_open_BN, of_text_BN = (_last_open(len(some), len(some[0].tokens_T) // BLOCK) for some in (rows, text))
    score = partial(score_windows, core, gist_net, block_tokens=BLOCK)
    known = score(rows, np.ones_like(is_open_BN), gist_width=1)
    read = {f"{BLOCK // width}:1": score(rows, is_open_BN, gist_width=width) for width in RATIOS}
    after_text = score(text, np.ones_like(of_text_BN), gist_width=1).nats_BT[:, -SCORED_TOKENS:]
    after_gists = {
        f"{BLOCK // width}:1": {
            control: float(
                score(text, of_text_BN, gist_width=width, control=control).nats_BT[:, -SCORED_TOKENS:].mean()
            )
            for control in CONTROLS
        }
        for width in RATIOS
    }
    return {
        "nats": float(nats_WT.mean()),
        "nats_by_context": by_context,
        "recall_nats": float(known.nats_BT[answers_BT].mean()),
        "recall_hits": float(known.hits_BT[answers_BT].mean()),
        "first_digit_nats": float(known.nats_BT[firsts_BT].mean()),
        "gist_first_digit_nats": {ratio: float(scores.nats_BT[firsts_BT].mean()) for ratio, scores in read.items()},
        "gist_recall_nats": {ratio: float(scores.nats_BT[answers_BT].mean()) for ratio, scores in read.items()},
        "gist_recall_hits": {ratio: float(scores.hits_BT[answers_BT].mean()) for ratio, scores in read.items()},
        "next_64": {"text": float(after_text.mean()), **after_gists},
    }


def _last_open(num_rows: int, num_blocks: int) -> npt.NDArray[np.bool_]:
    """The last two blocks open, those before them gists: [B, N]."""
    is_open_BN = np.zeros((num_rows, num_blocks), dtype=np.bool_)
    is_open_BN[:, -SCORED_TOKENS // BLOCK :] = True
    return is_open_BN


@torch.no_grad()
def judge_windows(core: Core, held_out: TextSource) -> dict[str, Any]:
    """Nats of the same held-out tokens by tokens of context before them, the law through the lengths that the core
    learnt from, what it says of longer ones, and what a law without the longest of them says too much of that."""
    report = {}
    for domain, store in held_out.stores.items():
        windows = torch.from_numpy(np.stack(spread_windows(store, JUDGED, WINDOW_CONTEXTS[-1] + SCORED_TOKENS)))
        nats = {}
        for context in WINDOW_CONTEXTS:
            parts = windows[:, -context - SCORED_TOKENS :].split(4)  # type: ignore[no-untyped-call]
            scored = torch.cat([token_nlls(core_logits(core), part)[:, -SCORED_TOKENS:] for part in parts])
            nats[context] = float(scored.mean())
        learnt = {context: value for context, value in nats.items() if context <= LEARNT_CONTEXT}
        law, before = fit_power(learnt), fit_power(dict(list(learnt.items())[:-1]))
        report[domain] = {
            "nats": {str(context): round(value, 4) for context, value in nats.items()},
            **asdict(law),
            "left_out_error": round(before.at(LEARNT_CONTEXT) - learnt[LEARNT_CONTEXT], 4),
            "predicted": {str(context): round(law.at(context), 4) for context in (*WINDOW_CONTEXTS[-1:], 8192, 32768)},
        }
    return report


def results(folder: Path) -> list[dict[str, Any]]:
    """All runs that a folder holds, by weights, tokens and seed."""
    measure = "rm -r that folder, then recipes/core/scaling.py"
    runs = [read_figures(path, parts=PARTS, measure=measure) for path in folder.glob(f"w*_t*_s*/{RESULT}")]
    return sorted(runs, key=lambda run: (run["weights"], run["tokens"], run["seed"]))


def curves(runs: list[dict[str, Any]]) -> dict[str, Fitted]:
    """Fitted curves of text; of answers, through the runs that know some (the others stand at ln 10 nats a digit, and
    the curve has no plateau); of the next 64 tokens, and of what gists cost them: the difference of two curves, because
    what text is worth to a core grows before its gists learn to save it."""
    read: dict[str, Callable[[dict[str, Any]], float]] = {
        "text": lambda run: run["nats"],
        "text, 256 to 512 tokens of context": lambda run: run["nats_by_context"]["512"],
        "64 tokens after 256 of text": lambda run: run["next_64"]["text"],
        f"64 tokens after gists of 256, {WIDEST}": lambda run: run["next_64"][WIDEST]["real"],
        "answers from tokens": lambda run: run["recall_nats"],
    }
    read |= {
        f"answers from gists, {ratio}": partial(_of_ratio, "gist_recall_nats", ratio)
        for ratio in runs[0]["gist_recall_nats"]
    }
    read["first digits from tokens"] = lambda run: run["first_digit_nats"]
    read |= {
        f"first digits from gists, {ratio}": partial(_of_ratio, "gist_first_digit_nats", ratio)
        for ratio in runs[0]["gist_recall_nats"]
    }
    found = {}
    for name, nats in read.items():
        known = CHANCE if name.startswith(DIGITS) else math.inf
        points = [
            Point(weights=run["weights"], tokens=run["tokens"], nats=nats(run)) for run in runs if nats(run) < known
        ]
        try:
            curve = fit_curve(points)
        except InvalidValueError:  # too few runs know an answer
            continue
        found[name] = Fitted(
            at=curve.at, points=points, without=[other.at for other in left_out_curves(points)], curve=curve
        )
    gists, text = found[f"64 tokens after gists of 256, {WIDEST}"], found["64 tokens after 256 of text"]
    found[f"delta-NLL@64, {WIDEST}"] = Fitted(
        at=_less(gists.at, text.at),
        points=[replace(one, nats=one.nats - other.nats) for one, other in zip(gists.points, text.points, strict=True)],
        without=[_less(one, other) for one, other in zip(gists.without, text.without, strict=True)],
    )
    return found


def _less(one: Law, other: Law) -> Law:
    return lambda weights, tokens: one(weights, tokens) - other(weights, tokens)


def _of_ratio(measure: str, ratio: str, run: dict[str, Any]) -> float:
    nats: float = run[measure][ratio]
    return nats


def saved_shares(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """By ratio: the share of what text saves the next 64 tokens that its gists save, and others' gists in their place;
    mean, least and most over the runs in which copying formed."""
    found: dict[str, dict[str, list[float]]] = {}
    for ratio, control in product(runs[0]["gist_recall_nats"], ("real", "shuffled")):
        shares = []
        for run in runs:
            after, text = run["next_64"][ratio], run["next_64"]["text"]
            if run["formed_after"] is not None:
                shares.append((after["none"] - after[control]) / (after["none"] - text))
        if shares:
            figures = (fmean(shares), min(shares), max(shares))
            found.setdefault(ratio, {})[control] = [round(share, 3) for share in figures]
    return found


def predictions(fitted: Fitted, folder: Path) -> dict[str, Any]:
    """Nats of the larger sizes at their number of tokens."""
    said = {}
    for name, (config, tokens) in LARGER.items():
        core = Core(read_settings(folder / config).read("model", CoreConfig))  # counted, never run
        said[name] = fitted.foretold(num_weights(core.shifts, core.layers, core.norm), tokens)
    return said


def draw(found: dict[str, Fitted], windows: dict[str, Any], path: Path) -> None:
    """One panel a curve: points by tokens, one colour a size; and one for the length of the window."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn = {name: found[name] for name in DRAWN if name in found}
    num_rows = -(-(len(drawn) + 1) // PANELS)
    figure, axes = plt.subplots(num_rows, PANELS, figsize=(4.6 * PANELS, 3.8 * num_rows), squeeze=False)
    sizes = sorted({point.weights for one in drawn.values() for point in one.points})
    for axis, (name, fitted) in zip(axes.flat, drawn.items(), strict=False):
        for place, weights in enumerate(sizes):
            some = sorted(
                (point for point in fitted.points if point.weights == weights), key=lambda point: point.tokens
            )
            if not some:
                continue
            tokens, color = [point.tokens for point in some], f"C{place}"
            axis.plot(tokens, [point.nats for point in some], "o", color=color, label=f"{weights / 1e6:.2g} M")
            line = np.geomspace(tokens[0] / 1.2, tokens[-1] * 4, 50)
            axis.plot(line, [fitted.at(weights, tokens) for tokens in line], color=color, linewidth=1)
        axis.set_xscale("log")
        axis.set_title(f"{name}: nats {'a digit' if name.startswith(DIGITS) else 'a token'}", fontsize=10)
        axis.set_xlabel("tokens learnt from")
        axis.legend(title="weights", fontsize=8, title_fontsize=8)
    axis, *unused = axes.flat[len(drawn) :]
    for nothing in unused:
        nothing.set_axis_off()
    for place, (domain, told) in enumerate(windows.items()):
        contexts = [int(context) for context in told["nats"]]
        law = PowerLaw(floor=told["floor"], factor=told["factor"], power=told["power"])
        axis.plot(contexts, told["nats"].values(), "o", color=f"C{place}", label=domain)
        line = np.geomspace(contexts[0], contexts[-1], 50)
        axis.plot(line, [law.at(tokens) for tokens in line], color=f"C{place}", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_title("the shipped core, the same tokens: nats a token", fontsize=10)
    axis.set_xlabel("tokens of context before them")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, fit, foretell, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, for its token arrays")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("scaling.toml"))
    parser.add_argument("--tokens", type=float, nargs="+", default=[2e6, 4e6, 8e6, 16e6])
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 144, 192], choices=sorted(LAYERS))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each size and length")
    parser.add_argument("--model", default="reference-core", help="bundled core, or folder: what length is worth to it")
    parser.add_argument("--eager", action="store_true", help="do not compile: starts at once, steps are slower")
    device_option(parser)
    args = parser.parse_args()
    for tokens in args.tokens:
        number("--tokens", tokens, least=PER_STEP, most=1e15)
    num_sizes, num_lengths = len(set(args.widths)), len({round(tokens / PER_STEP) for tokens in args.tokens})
    whole_number("--seeds", args.seeds, least=1)
    refuse_few(num_sizes * num_lengths, num_sizes=num_sizes, num_lengths=num_lengths)
    device = training_device(args.device)
    torch.set_num_threads(1)
    settings = read_settings(args.config)
    source, held_out = texts_of(args.run, settings.shares)
    first = settings.read("loop", LoopConfig).seed
    results(args.out)  # what is there is refused before hours are spent beside it
    for seed, width, tokens in product(range(first, first + args.seeds), args.widths, args.tokens):
        folder = args.out / f"w{width}_t{tokens:.0f}_s{seed}"
        if not (folder / RESULT).exists():
            size = sized(settings, width, round(tokens / PER_STEP), seed)
            run = {"seed": seed} | one_run(size, source, held_out, folder, compiled=not args.eager, device=device)
            (folder / RESULT).write_text(json.dumps(run, indent=2) + "\n")
            print(f"{folder.name}: {run['tokens']:,} tokens, {run['nats']:.3f} nats", flush=True)
    runs = results(args.out)
    found = curves(runs)
    report = {
        name: {
            **({} if fitted.curve is None else asdict(fitted.curve)),
            "runs": len(fitted.points),
            "left_out_errors": [round(error, 3) for error in fitted.errors],
            "predicted": predictions(fitted, args.config.parent),
        }
        for name, fitted in found.items()
    }
    nets = read_core_folder(BaseHandle(args.model).folder, dtype=working_dtype(device), device=device)
    windows = judge_windows(nets.core, held_out)
    told = {"curves": report, "saved_of_text": saved_shares(runs), "windows": windows}
    content = {"machine": f"one core, one thread, {processor()}", **told, "runs": runs}
    (args.out / "scaling.json").write_text(json.dumps(content, indent=2) + "\n")
    draw(found, windows, args.out / "scaling.png")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    run_script(main)
