"""Put the figures of several seeds of one recipe side by side: the mean of each, and how far seeds lie apart.

`python recipes/core/seeds.py --models FOLDER FOLDER ... --json FILE`

Each folder is a model that `recipes/core/evaluate.py` has measured (or the file of its figures alone); what text brings
back and what its lens finds (`recipes/core/lens.py`) are compared where all have been measured for that. Intervals are
those of the mean
over seeds (95 %, Student's t): they say what another seed would do, not what other questions would. All seeds of the
recipe begin with the weights of one plain model, so what that one's own seed would change is in none of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any

from rich.console import Console
from rich.table import Table

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.intervals import Mean
from megacontext.training.card import read_figures, write_figures
from megacontext.training.text_scoring import EVERY
from megacontext.values import shown

LENS_KINDS = {"all questions": ("hits", "all", "lens"), "nicknames": ("hits", "paraphrase", "lens")}
PARTS = ("run", "plain", "before", "recall")
BUDGETS = {512: "1/4", 256: "1/8", 128: "1/16"}  # of a history of 2,048 tokens
Figures = Mapping[str, Any]
Measure = Callable[[Figures], float | None]


def figure_at(*path: str, sign: int = 1) -> Callable[[Figures], float | None]:
    """The figure that lies under these keys; None where it was measured that there is none (a gap too small)."""

    def read(found: Any) -> float | None:
        for key in path:
            found = found[key]
        if found is None:
            return None
        if isinstance(found, bool) or not isfinite(found):
            raise ValueError(f"it is {found}")
        return sign * float(found)

    return read


def measures(models: Mapping[str, Figures]) -> dict[str, Measure]:
    """What is compared, by name: what every seed must have been measured for, and what all have been."""
    found = recall_measures()
    if all("apart" in figures for figures in models.values()):
        found |= apart_measures()
    if all("text" in figures for figures in models.values()):
        found |= text_measures(lens=all(has_lens(figures["text"]) for figures in models.values()))
    if all("lens" in figures for figures in models.values()):
        found |= lens_measures()
    return found


def recall_measures() -> dict[str, Measure]:
    """Recall in windows, and the core as a plain model."""
    found: dict[str, Measure] = {}
    for kind in ("codes", "puzzles"):
        for control, whose in (("real", ""), ("shuffled", ", another row's")):
            for entries, share in BUDGETS.items():
                path = ("recall", kind, f"{entries}/gists/{control}", "closure")
                found[f"{kind}: closure by gists alone at {share}{whose}"] = figure_at(*path)
        for entries, share in BUDGETS.items():
            path = ("recall", kind, f"{entries}/gists/real", "closure_of_plain")
            found[f"{kind}: the same against the plain model at {share}"] = figure_at(*path)
        for name, way in (("gists alone at 1/16", "128/gists/real"), ("full context", "full")):
            found[f"{kind}: exact from {name}"] = figure_at("recall", kind, way, "exact", "accuracy")
    for part, who in (("plain", "the core"), ("before", "the plain model")):
        found[f"codes from full context, {who}"] = figure_at(part, "recall", "codes", "accuracy")
        for domain in ("books", "code"):
            found[f"{domain}, nats a token, {who}"] = figure_at(part, "validation", domain, "nats_per_token")
            name = f"{domain}, far words, what far context saves, {who}"
            found[name] = figure_at(part, "far_context", domain, "far_words", sign=-1)
    return found


def apart_measures() -> dict[str, Measure]:
    """What `--only apart` adds: closure against a plain model that no core began as."""
    found: dict[str, Measure] = {}
    for kind in ("codes", "puzzles"):
        for control, whose in (("real", ""), ("shuffled", ", another row's")):
            for entries, share in BUDGETS.items():
                path = ("apart", kind, f"{entries}/gists/{control}", "closure_of_plain")
                found[f"{kind}: closure against a plain model trained apart at {share}{whose}"] = figure_at(*path)
        found[f"{kind}: exact from full context, the plain model trained apart"] = figure_at(
            "apart", kind, "plain", "exact", "accuracy"
        )
    return found


def text_measures(*, lens: bool) -> dict[str, Measure]:
    """What `--only text` adds: the share of full context's gain on far words; of the lens, where there was one."""
    ways = {"gists 32:1 alone": "gists 32:1", "gists 8:1 alone": "gists 8:1"}
    ways |= {f"{name} of another row": f"{way}, shuffled" for name, way in ways.items()}
    if lens:
        ways |= {f"six blocks by the lens, every {every} tokens": f"lens, every {every}" for every in EVERY}
    return {
        f"{domain}, share of far words, {name}": figure_at("text", domain, "ways", way, "far", "share")
        for domain in ("books", "code")
        for name, way in ways.items()
    }


def has_lens(text: Figures) -> bool:
    """Whether text was read with a lens; not where the figures of books are none."""
    ways = dict(text).get("books")
    ways = ways.get("ways") if isinstance(ways, Mapping) else None
    return isinstance(ways, Mapping) and "lens, every 8" in ways


def lens_measures() -> dict[str, Measure]:
    """What `lens.py` adds: how often the block with the answer comes first, and among the first four."""
    return {
        f"lens, {kind}: {name}": figure_at("lens", *path, within, "accuracy")
        for kind, path in LENS_KINDS.items()
        for name, within in (("first", "within_1"), ("within four", "within_4"))
    }


def side_by_side(models: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """A row for each measure: the value of every seed, their mean, its 95 % interval, and their standard deviation;
    None for the last three where a seed has no such figure.

    Raises InvalidValueError naming the model and the measure that it lacks, or models measured on different questions.
    """
    refuse_unlike(models)
    rows: list[dict[str, Any]] = []
    for name, measure in measures(models).items():
        values: list[float | None] = []
        for model, figures in models.items():
            try:
                values.append(measure(figures))
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                raise InvalidValueError(
                    f"{figures_of(Path(model))} has no figure for '{name}' ({type(error).__name__}: {error}); run "
                    "`recipes/core/evaluate.py` for it"
                ) from error
        rows.append({"measure": name, "values": [_rounded(value) for value in values], **_summary(values)})
    return rows


def refuse_unlike(models: Mapping[str, Figures]) -> None:
    """InvalidValueError where figures are no tables, or of different questions or plain models."""
    for model, figures in models.items():
        for part, found in figures.items():
            if not isinstance(found, Mapping):
                raise InvalidValueError(
                    f"{figures_of(Path(model))}: {part} is {type(found).__name__}, no table of figures; run "
                    "`recipes/core/evaluate.py` again"
                )
            for name, kind in (("rows", int), ("questions", str)):
                if type(told := found.get(name)) not in (kind, NoneType):
                    raise InvalidValueError(
                        f"{figures_of(Path(model))}: {name} of {part} is {shown(told)}; run `recipes/core/evaluate.py` "
                        "again"
                    )
    for part in (*PARTS[1:], "text"):
        counts = {model: figures[part].get("rows") for model, figures in models.items() if part in figures}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{model} on {count}" for model, count in counts.items())
            raise InvalidValueError(
                f"'{part}' of the models was measured on different questions ({said} rows); give all --rows alike"
            )
    for part in ("recall", "apart"):
        asked = {model: figures[part].get("questions") for model, figures in models.items() if part in figures}
        if len(set(asked.values())) < 2:
            continue
        said = ", ".join(f"{model} {str(digest)[:12]}" for model, digest in asked.items())
        raise InvalidValueError(
            f"'{part}' of the models was measured on different questions ({said}); run `recipes/core/evaluate.py "
            f"--only {part}` for each of them with one version, --config and held-out side"
        )
    beside = {model: figures["apart"].get("against") for model, figures in models.items() if "apart" in figures}
    if len({json.dumps(weights) for weights in beside.values()}) > 1:
        said = ", ".join(beside)
        raise InvalidValueError(f"'apart' of {said} was measured against different plain models; give all one --plain")


def figures_of(path: Path) -> Path:
    """The file of a model's figures, or the one that was given."""
    return path if path.is_file() else path / "evaluation.json"


def refuse_place(path: Path, models: Sequence[Path]) -> None:
    """InvalidValueError for a --json that cannot be written, or that would take the place of figures."""
    if not path.absolute().parent.is_dir():
        raise InvalidValueError(f"{path.parent} is no folder; make it first, or give another --json")
    if path.is_dir():
        raise InvalidValueError(f"--json {path} is a folder; give a file")
    if path.resolve() in {one.resolve() for model in models for one in (figures_of(model), model / "lens.json")}:
        raise InvalidValueError(f"--json {path} is that of a model's figures, which it would replace; give another")


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "interval": None, "deviation": None}
    mean = Mean.of(known)
    return {
        "mean": _rounded(mean.value),
        "interval": [_rounded(edge) for edge in mean.interval],
        "deviation": _rounded(mean.error * len(known) ** 0.5),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Read, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", type=Path, nargs="+", required=True, help="one of each seed, or its file of figures"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    args = parser.parse_args()
    refuse_place(args.json, args.models)
    if len({folder.resolve() for folder in args.models}) < len(args.models):
        raise InvalidValueError(f"--models names a folder twice: {', '.join(map(str, args.models))}; give each once")
    measure = "recipes/core/evaluate.py"
    models = {str(path): dict(read_figures(figures_of(path), parts=PARTS, measure=measure)) for path in args.models}
    for folder in args.models:
        if (folder / "lens.json").exists():
            models[str(folder)]["lens"] = read_figures(folder / "lens.json", measure="recipes/core/lens.py")
    if len(models) < 2:
        raise InvalidValueError(f"one seed ({args.models[0]}) tells nothing of others; give at least two --models")
    rows = side_by_side(models)
    table = Table("", *(path.stem for path in args.models), "mean", "95 %", title="One column for each seed")
    for row in rows:
        low, high = row["interval"] or (None, None)
        shown = (*row["values"], row["mean"])
        table.add_row(row["measure"], *map(_shown, shown), "-" if low is None else f"{_shown(low)} to {_shown(high)}")
    Console().print(table)
    runs = {
        name: {key: figures["run"].get(key) for key in ("step", "tokens", "minutes", "machine")}
        for name, figures in models.items()
    }
    write_figures(args.json, {"models": runs, "measures": rows}, of=", ".join(models))


if __name__ == "__main__":
    run_script(main)
