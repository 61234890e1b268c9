"""Put the figures of several seeds of one recipe side by side: the mean of each, and how far seeds lie apart.

`python recipes/core/seeds.py --models FOLDER FOLDER ... --json FILE`

Each folder is a model that `recipes/core/evaluate.py` has measured. Intervals are those of the mean over seeds (95 %,
Student's t): they say what another seed would do, not what other questions would.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.intervals import Mean
from megacontext.training.card import read_figures

BUDGETS = {512: "1/4", 256: "1/8", 128: "1/16"}  # of a history of 2,048 tokens
Figures = Mapping[str, Any]


def figure_at(*path: str, sign: int = 1) -> Callable[[Figures], float]:
    """The figure that lies under these keys."""

    def read(found: Any) -> float:
        for key in path:
            found = found[key]
        return sign * float(found)

    return read


def measures() -> dict[str, Callable[[Figures], float]]:
    """What is compared, by name."""
    found: dict[str, Callable[[Figures], float]] = {}
    for kind in ("codes", "puzzles"):
        for control, whose in (("real", ""), ("shuffled", ", another row's")):
            for entries, share in BUDGETS.items():
                path = ("recall", kind, f"{entries}/gists/{control}", "closure")
                found[f"{kind}: closure by gists alone at {share}{whose}"] = figure_at(*path)
        for entries, share in BUDGETS.items():
            path = ("recall", kind, f"{entries}/gists/real", "closure_of_plain")
            found[f"{kind}: the same against the plain model at {share}"] = figure_at(*path)
        for name, shown in (("gists alone at 1/16", "128/gists/real"), ("full context", "full")):
            found[f"{kind}: exact from {name}"] = figure_at("recall", kind, shown, "exact", "accuracy")
    for part, who in (("plain", "the core"), ("before", "the plain model")):
        found[f"codes from full context, {who}"] = figure_at(part, "recall", "codes", "accuracy")
        for domain in ("books", "code"):
            found[f"{domain}, nats a token, {who}"] = figure_at(part, "validation", domain, "nats_per_token")
            name = f"{domain}, far words, what far context saves, {who}"
            found[name] = figure_at(part, "far_context", domain, "far_words", sign=-1)
    return found


def side_by_side(models: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """A row for each measure: the value of every seed, their mean, its 95 % interval, and their standard deviation.

    Raises InvalidValueError naming the model and the measure that it lacks.
    """
    rows = []
    half = float(student_t.ppf(0.975, len(models) - 1))
    for name, measure in measures().items():
        values = []
        for model, figures in models.items():
            try:
                values.append(measure(figures))
            except (LookupError, TypeError, ValueError) as error:
                raise InvalidValueError(
                    f"{model}/evaluation.json has no figure for '{name}' ({type(error).__name__}: {error}); run "
                    "`recipes/core/evaluate.py` for plain and recall"
                ) from error
        mean = Mean.of(values)
        rows.append(
            {
                "measure": name,
                "values": [round(value, 4) for value in values],
                "mean": round(mean.value, 4),
                "interval": [round(mean.value - half * mean.error, 4), round(mean.value + half * mean.error, 4)],
                "deviation": round(mean.error * len(values) ** 0.5, 4),
            }
        )
    return rows


def main() -> None:
    """Read, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="model folders, one of each seed")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    args = parser.parse_args()
    if len({folder.resolve() for folder in args.models}) < len(args.models):
        raise InvalidValueError(f"--models names a folder twice: {', '.join(map(str, args.models))}; give each once")
    measure = "recipes/core/evaluate.py"
    models = {
        str(folder): read_figures(
            folder / "evaluation.json", parts=("run", "plain", "before", "recall"), measure=measure
        )
        for folder in args.models
    }
    if len(models) < 2:
        raise InvalidValueError(f"one seed ({args.models[0]}) tells nothing of others; give at least two --models")
    rows = side_by_side(models)
    table = Table("", *(folder.name for folder in args.models), "mean", "95 %", title="One column for each seed")
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            row["measure"],
            *(f"{value:.3f}" for value in row["values"]),
            f"{row['mean']:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    Console().print(table)
    runs = {
        name: {key: figures["run"].get(key) for key in ("step", "tokens", "minutes", "machine")}
        for name, figures in models.items()
    }
    args.json.write_text(json.dumps({"models": runs, "measures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
