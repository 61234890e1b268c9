"""Do absolute places help a core? The same short run with and without what should tell it of them, several seeds.

`python recipes/core/auxiliary.py --run RUN --out FOLDER [--arms places sigma slow] [--seeds N] [--steps N]`

places: a head that asks the hidden states where they stand; sigma: a learned factor on every gist's sigma; slow: its
slowest rotary pairs as ultra-slow bands. Every run is the first stage of memory.toml from the plain model. All arms see
the same batches and are judged on the same held-out names and text; a difference below zero says that an arm helps.
What the head itself learned, the errors it makes and those it expects, in tokens, and the factor stand in the results.
Runs that are in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scaling import one_run, texts_of
from scipy.stats import t as student_t

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.nets.shapes import CoreConfig
from megacontext.training.card import read_figures
from megacontext.training.held_out import device_option, processor
from megacontext.training.recipe import training_device
from megacontext.training.settings import Settings, read_settings
from megacontext.values import number, whole_number

ARMS = ("places", "sigma", "slow")
NUM_SLOW_BANDS = 2


def changes_of(arm: str, settings: Settings, *, weight: float) -> dict[str, dict[str, Any]]:
    """What an arm changes in the configuration: nothing in the plain one, and no place is asked for but in `places`."""
    model = settings.read("model", CoreConfig)
    changes: dict[str, dict[str, dict[str, Any]]] = {
        "places": {"memory": {"index": weight}},
        "sigma": {"model": {"learns_sigma": True}},
        "slow": {
            "model": {
                "num_slow_bands": NUM_SLOW_BANDS,  # the other pairs keep their frequencies
                "rotary_base": model.rotary_base ** (1 - NUM_SLOW_BANDS / (model.rotary_dims // 2)),
            }
        },
    }
    return {"memory": {"index": 0.0}} | changes.get(arm, {})


def changed(settings: Settings, arm: dict[str, dict[str, Any]], *, seed: int, num_steps: int) -> Settings:
    """The first stage alone, with the changes of an arm."""
    tables = dict(settings.tables)
    for name, change in arm.items():
        tables[name] = {**settings.table(name), **change}
    tables["loop"] = {**settings.table("loop"), "num_steps": num_steps, "seed": seed}
    settings.stages()  # there are some
    tables["stage"] = tables["stage"][:1]
    return replace(settings, tables=tables)


def differences(plain: list[dict[str, Any]], arm: list[dict[str, Any]]) -> dict[str, Any]:
    """Each measure without and with, and the paired difference with its 95 % interval over seeds (Student's t)."""
    found = {"text": _compared(plain, arm, lambda run: run["nats"])}
    for ratio in plain[0]["gist_recall_nats"]:
        found[f"answers from gists, {ratio}"] = _compared(plain, arm, partial(_gist_recall, ratio))
    return found


def _gist_recall(ratio: str, run: dict[str, Any]) -> float:
    nats: float = run["gist_recall_nats"][ratio]
    return nats


def _compared(
    plain: list[dict[str, Any]], arm: list[dict[str, Any]], read: Callable[[dict[str, Any]], float]
) -> dict[str, Any]:
    plain_S, with_S = (np.array([read(run) for run in runs]) for runs in (plain, arm))
    difference_S = with_S - plain_S
    error = float(difference_S.std(ddof=1)) / len(difference_S) ** 0.5
    half = float(student_t.ppf(0.975, len(difference_S) - 1)) * error
    return {
        "plain": round(float(plain_S.mean()), 4),
        "with": round(float(with_S.mean()), 4),
        "difference": round(float(difference_S.mean()), 4),
        "interval": [round(float(difference_S.mean()) + side * half, 4) for side in (-1, 1)],
    }


def main() -> None:
    """Run what is missing, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, for its token arrays")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("memory.toml"))
    parser.add_argument("--start", type=Path, default=Path("reference-plain"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--weight", type=float, default=0.1, help="of the question for places")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm, at least 2")
    parser.add_argument("--only-seed", type=int, help="run this one and stop: for a process for each")
    parser.add_argument("--steps", type=int, default=200)
    device_option(parser)
    args = parser.parse_args()
    device = training_device(args.device)
    whole_number("--seeds", args.seeds, least=2)
    whole_number("--steps", args.steps, least=1)
    number("--weight", args.weight, above=0)
    if args.only_seed is not None:
        whole_number("--only-seed", args.only_seed, most=args.seeds - 1)
    torch.set_num_threads(1)
    settings = read_settings(args.config)
    source, held_out = texts_of(args.run, settings.shares)
    arms = ["plain", *args.arms]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in range(args.seeds) if args.only_seed is None else [args.only_seed]:
        for arm in arms:
            folder, changes = args.out / f"{arm}_{seed}", changes_of(arm, settings, weight=args.weight)
            asked = {"steps": args.steps, "changes": changes}
            if not (folder / "result.json").exists():
                arm_settings = changed(settings, changes, seed=seed, num_steps=args.steps)
                result = {**asked, **one_run(arm_settings, source, held_out, folder, start=args.start, device=device)}
                (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
            runs[arm].append(read_figures(folder / "result.json", parts=("nats",), measure="recipes/core/auxiliary.py"))
            if not asked.items() <= runs[arm][-1].items():
                raise InvalidValueError(f"{folder} was not made with {asked}; give another --out, or remove it")
    if args.only_seed is not None:
        return
    report = {
        "machine": f"one core, one thread, {processor()}",
        "steps": args.steps,
        "weight": args.weight,
        "measures": {arm: differences(runs["plain"], runs[arm]) for arm in args.arms},
        "runs": runs,
    }
    (args.out / "auxiliary.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["measures"], indent=2))


if __name__ == "__main__":
    run_script(main)
