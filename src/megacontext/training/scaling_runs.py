"""Finished runs of a scaling study: whether they are whole and belong together, and the laws through them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from megacontext.errors import InvalidValueError
from megacontext.training.card import read_figures
from megacontext.training.checkpoint import identity
from megacontext.training.memory_windows import CONTROLS
from megacontext.training.scaling import Curve, Point, Product, fit_curve, fit_product, fixes_curve, left_out
from megacontext.training.settings import Settings
from megacontext.training.windows import TextSource
from megacontext.values import number, whole_number

__all__ = ["DELTA", "RESULT", "WIDEST", "Fitted", "curves", "ingredients", "measures", "results", "saved_shares"]

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
DELTA = f"delta-NLL@64, {WIDEST}"

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
