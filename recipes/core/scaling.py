"""How losses fall with weights and tokens: small runs, fitted curves, a picture, and what they say of sizes M and L.

`python recipes/core/scaling.py --run RUN --out FOLDER [--tokens N ...] [--widths N ...] [--seeds N] [--only-train] \
[--model MODEL]`

Every run is a core with its GistNet, trained from nothing by scaling.toml and judged on held-out text and names. Runs
that are in FOLDER already are not repeated, and curves go through all that it holds: several processes can share the
work (`--only-train`, each with widths of its own), and a last call fits. Weights are counted without embedding and
head. How losses fall with the length of the window is measured on MODEL, which knows how to use it: the same tokens
after more context. MODEL is judged as the runs are, too, against what their curves say of its size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig
from megacontext.training.card import read_figures, write_figures
from megacontext.training.checkpoint import identity
from megacontext.training.core_recipe import build_learner
from megacontext.training.gauges import num_weights
from megacontext.training.held_out import (
    CPU,
    device_option,
    held_out_source,
    processor,
    refuse_other_tokenizer,
    refuse_short_windows,
    run_tokenizer,
)
from megacontext.training.loop import LoopConfig, TrainingLoop
from megacontext.training.memory_windows import CONTROLS
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores
from megacontext.training.recipe import training_device
from megacontext.training.scaling import (
    Curve,
    Point,
    PowerLaw,
    Product,
    fit_curve,
    fit_product,
    fixes_curve,
    left_out,
    num_apart,
    refuse_few,
)
from megacontext.training.scaling_judge import (
    NAMELESS,
    SCORED_TOKENS,
    WINDOW_CONTEXTS,
    judge,
    judge_windows,
    refuse_short_text,
)
from megacontext.training.settings import Settings, read_settings
from megacontext.training.windows import TextSource
from megacontext.values import file_in_the_way, number, whole_number

LAYERS = {48: 2, 96: 3, 144: 4, 192: 4, 256: 5}  # by width
HERE = Path(__file__).parent
LARGER = {"M": (HERE / "base_m.toml", 1e9), "L": (HERE / "base_l.toml", 1e10)}
PER_STEP = 4000  # tokens of a step, about
MOST_TOKENS = 1e12
RESULT = "result.json"
OF_ANSWERS = ("recall_nats", "first_digit_nats", "gist_recall_nats", "gist_first_digit_nats")
PARTS = (
    "seed",
    "made_of",
    "weights",
    "tokens",
    "formed_after",
    "model",
    "nats",
    "nats_by_context",
    "next_64",
    *OF_ANSWERS,
)
WIDEST = "32:1"
SOURCES = ("tokens", "gists, 2:1", "gists, 8:1", f"gists, {WIDEST}")
DELTA = f"delta-NLL@64, {WIDEST}"
DRAWN = ("text", *(f"answers from {source}" for source in SOURCES), "first digits from gists, 8:1", DELTA)
OF_DIGITS = ("answers", "first digits")  # measures in nats a digit
PANELS = 4  # a row of the picture


Law = Callable[[float, float], float]
"""Nats by numbers of weights and tokens."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a measure is by weights and tokens, the runs that say so, and what it would be without those of one size and
    length: these, and the law through the others."""

    law: Curve | Product
    points: list[Point]
    without: Sequence[tuple[list[Point], Law]]

    @property
    def errors(self) -> list[float]:
        """What is said too much, in nats, of the runs of each size and length where they are left out."""
        return [fmean(law(point.weights, point.tokens) - point.nats for point in some) for some, law in self.without]

    def foretold(self, weights: float, tokens: float) -> dict[str, float | list[float]]:
        """Nats of another run, and the least and most that is said of it where some are left out: how much hangs on one
        size and length, no interval."""
        said = [law(weights, tokens) for _, law in self.without]
        spread = [round(min(said), 3), round(max(said), 3)] if said else []
        return {"nats": round(self.law.at(weights, tokens), 3), "without_some": spread}


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
    tokens until its first stage ended, about, if it did; places: errors of the index head, if it was asked for;
    sigma_factor: what every sigma is multiplied by, 1 unless it was learnt."""
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


def results(folder: Path, made_of: dict[str, Any]) -> list[dict[str, Any]]:
    """All runs that a folder holds, by weights, tokens and seed; InvalidValueError where one was made of something
    else, or is not whole."""
    runs = []
    for path in sorted(folder.glob(f"w*_t*_s*/{RESULT}")):
        run = read_figures(path, measure="recipes/core/scaling.py")
        fix = f"remove {path.parent}, and it is trained again"
        if missing := [part for part in PARTS if part not in run]:
            raise InvalidValueError(f"{path} lacks {', '.join(missing)}; {fix}")
        if run["made_of"] != made_of:
            raise InvalidValueError(
                f"{path.parent} was made by other settings or of other token arrays; give another --out, or remove it"
            )
        try:
            _refuse_broken(run)
        except (InvalidValueError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidValueError(
                f"{path} holds no figures of a run ({type(error).__name__}: {error}); {fix}"
            ) from error
        runs.append(run)
    return sorted(runs, key=lambda run: (run["weights"], run["tokens"], run["seed"]))


def _refuse_broken(run: dict[str, Any]) -> None:
    """An error of its own kind for a run in which something is missing, or no number where one belongs."""
    for name in ("weights", "tokens"):
        number(name, run[name], above=0)
    whole_number("seed", run["seed"])
    whole_number("width", run["model"]["width"], least=1)
    if run["formed_after"] is not None:
        number("formed_after", run["formed_after"], above=0)
    for name, nats in measures([run]).items():
        number(name, nats(run), above=0)
    for ratio, control in product(run["gist_recall_nats"], CONTROLS):
        number(f"next_64, {ratio}, {control}", run["next_64"][ratio][control], above=0)
    number(DELTA, _delta(run))


def ingredients(settings: Settings, source: TextSource) -> dict[str, Any]:
    """What all runs of a study share: digests of the settings before they are sized, and of the token arrays."""
    tables = {name: table for name, table in settings.tables.items() if name != "extends"}
    content = json.dumps(tables, sort_keys=True, default=str).encode()
    data = identity({}, source.tokenizer, source.stores)["data"]
    digests = {domain: data[domain]["digest"] for domain in sorted(data)}
    return {"settings": hashlib.sha256(content).hexdigest()[:16], "data": digests}


def measures(runs: list[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], float]]:
    """What has a curve, by name. Answers, and what gists are worth, are read of runs in which copying formed alone."""
    ratios = list(runs[0]["gist_recall_nats"])
    read: dict[str, Callable[[dict[str, Any]], float]] = {
        "text": lambda run: run["nats"],
        "text, 256 to 512 tokens of context": lambda run: run["nats_by_context"]["512"],
        "answers from tokens": lambda run: run["recall_nats"],
        "first digits from tokens": lambda run: run["first_digit_nats"],
    }
    read |= {f"answers from gists, {ratio}": partial(_of_ratio, "gist_recall_nats", ratio) for ratio in ratios}
    read |= {
        f"first digits from gists, {ratio}": partial(_of_ratio, "gist_first_digit_nats", ratio) for ratio in ratios
    }
    return read


def curves(runs: list[dict[str, Any]]) -> dict[str, Fitted]:
    """Fitted laws: curves that fall, and a product for delta-NLL, which grows: text is worth more to larger cores. A
    measure of too few runs in which copying formed has none."""
    formed = [run for run in runs if run["formed_after"] is not None]
    found = {}
    for name, nats in measures(runs).items():
        points = [_point(run, nats) for run in (runs if name.startswith("text") else formed)]
        if fixes_curve(points):
            found[name] = _fitted(points, fit_curve)
    points = [_point(run, _delta) for run in formed]
    if fixes_curve(points) and min(point.nats for point in points) > 0:
        found[DELTA] = _fitted(points, fit_product)
    return found


def _fitted(points: list[Point], fit: Callable[[Sequence[Point]], Curve | Product]) -> Fitted:
    without = [(some, law.at) for some, law in left_out(points, fit)]
    return Fitted(law=fit(points), points=points, without=without)


def _point(run: dict[str, Any], nats: Callable[[dict[str, Any]], float]) -> Point:
    return Point(weights=run["weights"], tokens=run["tokens"], nats=nats(run))


def _delta(run: dict[str, Any]) -> float:
    """What the next 64 tokens cost after gists instead of the text itself."""
    nats: float = run["next_64"][WIDEST]["real"] - run["next_64"]["text"]
    return nats


def _of_ratio(measure: str, ratio: str, run: dict[str, Any]) -> float:
    nats: float = run[measure][ratio]
    return nats


def saved_shares(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By number of weights and ratio: the share of what text saves the next 64 tokens that its gists save, and others'
    gists in their place, over the runs in which copying formed; None where text saves nothing."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for weights in sorted({run["weights"] for run in runs}):
        some = [run for run in runs if run["weights"] == weights and run["formed_after"] is not None]
        for ratio, control in product(runs[0]["gist_recall_nats"], ("real", "shuffled")):
            saved = sum(run["next_64"][ratio]["none"] - run["next_64"][ratio][control] for run in some)
            worth = sum(run["next_64"][ratio]["none"] - run["next_64"]["text"] for run in some)
            share = round(saved / worth, 3) if worth > 0 else None
            found.setdefault(str(weights), {}).setdefault(ratio, {})[control] = share
    return found


def larger_sizes() -> dict[str, tuple[int, float]]:
    """Weights, counted as those of runs are, and tokens of the sizes that no run has."""
    counted = {}
    with torch.device("meta"):
        for name, (config, tokens) in LARGER.items():
            core = Core(read_settings(config).read("model", CoreConfig))
            counted[name] = (num_weights(core.shifts, core.layers, core.norm), tokens)
    return counted


def draw(found: dict[str, Fitted], windows: dict[str, Any], path: Path, *, model: str) -> None:
    """One panel a curve: points by tokens, one colour a size; and one for the length of the window."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import ScalarFormatter

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
            millions, color = [point.tokens / 1e6 for point in some], f"C{place}"
            axis.plot(millions, [point.nats for point in some], "o", color=color, label=f"{weights / 1e6:.2g} M")
            line = np.geomspace(millions[0] / 1.2, millions[-1] * 4, 50)
            axis.plot(line, [fitted.law.at(weights, 1e6 * stop) for stop in line], color=color, linewidth=1)
        if name.startswith("first digits"):
            axis.set_ylim(top=3.0)  # room for the legend
            axis.axhline(NAMELESS, color="gray", linestyle="dashed", linewidth=1, label="codes seen, names not")
        axis.set_title(f"{name}: nats {'a digit' if name.startswith(OF_DIGITS) else 'a token'}", fontsize=10)
        axis.set_xlabel("million tokens of all rows")
        corner = "upper left" if name == DELTA else "upper right"
        axis.legend(title="weights", fontsize=8, title_fontsize=8, loc=corner)
    axis, *unused = axes.flat[len(drawn) :]
    for nothing in unused:
        nothing.set_axis_off()
    for place, (domain, told) in enumerate(windows.items()):
        contexts = [int(context) for context in told["nats"]]
        law = PowerLaw(floor=told["floor"], factor=told["factor"], power=told["power"])
        axis.plot(contexts, told["nats"].values(), "o", color=f"C{place}", label=domain)
        line = np.geomspace(contexts[0], contexts[-1], 50)
        axis.plot(line, [law.at(tokens) for tokens in line], color=f"C{place}", linewidth=1)
    axis.set_title(f"{model}, the same tokens: nats a token", fontsize=10)
    axis.set_xlabel("tokens of context before them")
    axis.legend(fontsize=8)
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(ScalarFormatter())
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, fit, foretell, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, for its token arrays")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=HERE / "scaling.toml")
    parser.add_argument("--tokens", type=float, nargs="+", default=[2e6, 4e6, 8e6, 16e6])
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 144, 192], choices=sorted(LAYERS))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each size and length")
    parser.add_argument("--only-train", action="store_true", help="fit nothing: another call does")
    parser.add_argument("--model", default="reference-core", help="bundled core, or folder: what length is worth to it")
    parser.add_argument("--eager", action="store_true", help="do not compile: starts at once, steps are slower")
    device_option(parser)
    args = parser.parse_args()
    for tokens in args.tokens:
        number("--tokens", tokens, least=PER_STEP, most=MOST_TOKENS)
    whole_number("--seeds", args.seeds, least=1)
    device = training_device(args.device)
    torch.set_num_threads(1)
    settings = read_settings(args.config)
    if (file := file_in_the_way(args.out)) is not None:
        raise InvalidValueError(f"--out {args.out}: {file} is a file; give a folder")
    source, held_out = texts_of(args.run, settings.shares)
    if settings.vocab_size < source.tokenizer.get_vocab_size():
        raise InvalidValueError(
            f"{args.config}: vocab_size is {settings.vocab_size}, but the tokenizer of {args.run} has "
            f"{source.tokenizer.get_vocab_size()} tokens; give it that many"
        )
    refuse_short_text(held_out)
    made_of = ingredients(settings, source)
    kept = results(args.out, made_of)  # what is there is refused before hours are spent beside it
    first = settings.read("loop", LoopConfig).seed
    asked = list(product(range(first, first + args.seeds), sorted(set(args.widths)), sorted(set(args.tokens))))
    if not args.only_train:
        lengths = num_apart([*(run["tokens"] for run in kept), *(tokens for _, _, tokens in asked)])
        sizes = len({run["model"]["width"] for run in kept} | {width for _, width, _ in asked})
        refuse_few(max(len(kept), len(asked)), num_sizes=sizes, num_lengths=lengths)
        nets = read_core_folder(BaseHandle(args.model).folder, dtype=working_dtype(device), device=device)
        if nets.gist_net is None:
            raise InvalidValueError(f"--model {args.model} has no GistNet; give a core that has one, or --only-train")
        gist_net = nets.gist_net
        refuse_other_tokenizer(BaseHandle(args.model).folder, source.tokenizer, fix="give another --model")
        refuse_short_windows(nets.core, Path(args.model), WINDOW_CONTEXTS[-1] + SCORED_TOKENS)
    for seed, width, tokens in asked:
        folder = args.out / f"w{width}_t{tokens:.0f}_s{seed}"
        if not (folder / RESULT).exists():
            size = sized(settings, width, round(tokens / PER_STEP), seed)
            run = one_run(size, source, held_out, folder, compiled=not args.eager, device=device)
            fresh = folder / "result.partial"
            write_figures(fresh, {"seed": seed, "made_of": made_of, **run}, of=str(folder))
            fresh.replace(folder / RESULT)  # whole, for processes that read beside this one
            print(f"{folder.name}: {run['tokens']:,} tokens, {run['nats']:.3f} nats", flush=True)
    if args.only_train:
        return
    runs, larger = results(args.out, made_of), larger_sizes()
    found = curves(runs)
    report = {
        name: {
            **asdict(fitted.law),
            "at_bounds": fitted.law.at_bounds() if isinstance(fitted.law, Curve) else [],
            "runs": len(fitted.points),
            "left_out_errors": [round(error, 3) for error in fitted.errors],
            "predicted": {size: fitted.foretold(*counted) for size, counted in larger.items()},
        }
        for name, fitted in found.items()
    }
    windows = judge_windows(nets.core, held_out)
    weights = num_weights(nets.core.shifts, nets.core.layers, nets.core.norm)
    model = {"name": args.model, "weights": weights, **judge(nets.core, gist_net, held_out)}
    told = {"curves": report, "saved_of_text": saved_shares(runs), "windows": windows, "model": model}
    machine = f"one core, one thread, {processor()}" if device == CPU else str(device)
    (args.out / "scaling.json").write_text(json.dumps({"machine": machine, **told, "runs": runs}, indent=2) + "\n")
    draw(found, windows, args.out / "scaling.png", model=Path(args.model).name)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    run_script(main)
