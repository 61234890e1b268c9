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
import json
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import read_core_folder
from megacontext.bases.precision import working_dtype
from megacontext.bases.registry import BaseHandle
from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.nets.shapes import CoreConfig, GistNetConfig
from megacontext.training.card import write_figures
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
from megacontext.training.optim import MasterOptimizer, OptimConfig
from megacontext.training.preparation import load_stores
from megacontext.training.recipe import training_device
from megacontext.training.scaling import (
    Curve,
    PowerLaw,
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
from megacontext.training.scaling_runs import DELTA, RESULT, WIDEST, Fitted, curves, ingredients, results, saved_shares
from megacontext.training.settings import Settings, read_settings
from megacontext.training.windows import TextSource
from megacontext.values import file_in_the_way, number, whole_number

LAYERS = {48: 2, 96: 3, 144: 4, 192: 4, 256: 5}  # by width
HERE = Path(__file__).parent
LARGER = {"M": (HERE / "base_m.toml", 1e9), "L": (HERE / "base_l.toml", 1e10)}
PER_STEP = 4000  # tokens of a step, about
MOST_TOKENS = 1e12
SOURCES = ("tokens", "gists, 2:1", "gists, 8:1", f"gists, {WIDEST}")
DRAWN = ("text", *(f"answers from {source}" for source in SOURCES), "first digits from gists, 8:1", DELTA)
OF_DIGITS = ("answers", "first digits")  # measures in nats a digit
PANELS = 4  # a row of the picture


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


def parser() -> argparse.ArgumentParser:
    """The command line."""
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
    return parser


def refuse_impossible(args: argparse.Namespace) -> None:
    """InvalidValueError for arguments that no study could have."""
    for tokens in args.tokens:
        number("--tokens", tokens, least=PER_STEP, most=MOST_TOKENS)
    whole_number("--seeds", args.seeds, least=1)
    if (file := file_in_the_way(args.out)) is not None:
        raise InvalidValueError(f"--out {args.out}: {file} is a file; give a folder")


def read_model(name: str, tokenizer: Tokenizer, device: torch.device) -> tuple[Core, GistNet]:
    """The core that the length of the window is measured on; InvalidValueError for one that cannot be judged."""
    folder = BaseHandle(name).folder
    nets = read_core_folder(folder, dtype=working_dtype(device), device=device)
    if nets.gist_net is None:
        raise InvalidValueError(f"--model {name} has no GistNet; give a core that has one, or --only-train")
    refuse_other_tokenizer(folder, tokenizer, fix="give another --model")
    refuse_short_windows(nets.core, Path(name), WINDOW_CONTEXTS[-1] + SCORED_TOKENS)
    return nets.core, nets.gist_net


def report(found: dict[str, Fitted]) -> dict[str, dict[str, Any]]:
    """What is written of each law."""
    larger = larger_sizes()
    return {
        name: {
            **asdict(fitted.law),
            "at_bounds": fitted.law.at_bounds() if isinstance(fitted.law, Curve) else [],
            "runs": len(fitted.points),
            "left_out_errors": [round(error, 3) for error in fitted.errors],
            "predicted": {size: fitted.foretold(*counted) for size, counted in larger.items()},
        }
        for name, fitted in found.items()
    }


def main() -> None:
    """Run what is missing, fit, foretell, draw."""
    args = parser().parse_args()
    refuse_impossible(args)
    device = training_device(args.device)
    torch.set_num_threads(1)
    settings = read_settings(args.config)
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
        core, gist_net = read_model(args.model, source.tokenizer, device)
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
    runs = results(args.out, made_of)
    found, windows = curves(runs), judge_windows(core, held_out)
    weights = num_weights(core.shifts, core.layers, core.norm)
    model = {"name": args.model, "weights": weights, **judge(core, gist_net, held_out)}
    told = {"curves": report(found), "saved_of_text": saved_shares(runs), "windows": windows, "model": model}
    machine = f"one core, one thread, {processor()}" if device == CPU else str(device)
    (args.out / "scaling.json").write_text(json.dumps({"machine": machine, **told, "runs": runs}, indent=2) + "\n")
    draw(found, windows, args.out / "scaling.png", model=Path(args.model).name)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    run_script(main)
