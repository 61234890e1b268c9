"""What the results say, as a page and a picture: ``docs/benchmark-results.md`` and ``docs/images/benchmarks.png``.

Everything is read from the committed JSON, so that page and picture can say nothing that was not measured; the tests
compare the page with it. ``make bench`` ends with this. python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost_pictures import DRIFT_PICTURE, HISTORY_PICTURE, draw_drift, draw_history
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, TEXT
from record import RESULTS

__all__ = ["Promise", "page", "promises_of", "read_results"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOT_SHOWN = {"summary", "demo"}  # made of the others, or an account of its own
MOST = 100.0  # beyond which a bar says no more
INCHES_PER_LETTER, BARS_INCHES, FIGURES_INCHES = 0.065, 5.1, 2.9
PICTURES = {
    "history_cost": (
        HISTORY_PICTURE,
        "Decoding and refocusing by length of history; where words alone find it, as at 100 M, no window runs",
        draw_history,
    ),
    "patch_drift": (DRIFT_PICTURE, "Nats more than exact by number of refocuses", draw_drift),
}
REACHED, MISSED = LEVEL_COLORS[0], LEVEL_COLORS[2]


@dataclass(frozen=True)
class Promise:
    """A figure with a target. times_better: how often it fulfils it; below 1 it is missed."""

    benchmark: str
    what: str
    figure: str
    target: str
    reached: bool
    times_better: float

    @classmethod
    def of(cls, benchmark: str, row: dict[str, Any]) -> Promise:
        sign, limit, unit = [*row["target"].split(maxsplit=2), ""][:3]
        value, bound = float(row["value"]), float(limit)
        times = value / bound if sign == ">=" else bound / value if value > 0 else math.inf
        if bound == 0:  # all or nothing
            times = 1.0 if row["reached"] else 1 / MOST
        target = f"{sign} {_figure(bound, unit)}"
        return cls(benchmark, row["what"], _figure(value, unit), target, row["reached"], times)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the result files by benchmark, in order of their names."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {content["benchmark"]: content for content in read if content.get("benchmark", "demo") not in NOT_SHOWN}


def promises_of(results: dict[str, dict[str, Any]]) -> list[Promise]:
    """Every figure that has a target."""
    return [Promise.of(name, row) for name, content in results.items() for row in content["rows"] if row.get("target")]


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    promises = promises_of(results)
    num_reached = sum(promise.reached for promise in promises)
    parts = [
        "# What was measured\n",
        f"{num_reached} of {len(promises)} targets are reached. Made by `python benchmarks/report.py` from "
        "`benchmarks/results/`; what each benchmark asks, how it asks it, and why a target is missed stands on "
        "[the page before](benchmarks.md).\n",
        "![Every target, and by how much it is reached or missed](images/benchmarks.png)\n",
    ]
    for name, content in results.items():
        machine = content["machine"]
        parts.append(f"## {name}\n")
        if name in PICTURES:
            picture, told, _ = PICTURES[name]
            parts.append(f"![{told}](images/{picture})\n")
        parts.append(
            f"{content['date'][:10]}, {machine['num_cores']} cores {machine['processor']}{_units(machine)}, commit "
            f"`{content['commit']}`.\n"
        )
        rows = ["| what | figure | target | |", "|---|---|---|---|"]
        for row in content["rows"]:
            verdict = {True: "reached", False: "**missed**"}.get(row.get("reached"), "")
            figure = _figure(float(row["value"]), row.get("unit", ""))
            target = Promise.of(name, row).target if row.get("target") else ""
            earlier = f" ({row['date'][:10]}, `{row['commit']}`)" if "commit" in row else ""
            rows.append(f"| {row['what']}{earlier} | {figure} | {target} | {verdict} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def draw(promises: Sequence[Promise], path: Path) -> None:
    """Each promise as a bar: to the right of the line by how much it is reached, to the left by how much missed."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(promise.benchmark for promise in promises))
    places, labels, place = [], [], 0.0
    for name in names:
        labels.append((place, name))
        place += 1
        for _ in (promise for promise in promises if promise.benchmark == name):
            places.append(place)
            place += 1
        place += 0.4
    style = {"font.family": "DejaVu Sans", "text.color": TEXT, "xtick.color": DIM}
    with mpl.rc_context(style):
        left = 0.4 + INCHES_PER_LETTER * max(len(promise.what) for promise in promises)
        width = left + BARS_INCHES + FIGURES_INCHES
        figure = Figure(figsize=(width, 1.6 + 0.27 * place), dpi=110, facecolor=BACKGROUND)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((left / width, 0.02, BARS_INCHES / width, 0.93), facecolor=BACKGROUND)
        for promise, at in zip(promises, places, strict=True):
            length = math.log10(min(MOST, max(1 / MOST, promise.times_better)))
            axes.barh(at, length, height=0.62, color=REACHED if promise.reached else MISSED)
            axes.text(-2.06, at, promise.what, ha="right", va="center", fontsize=8.5)
            axes.plot(0, at, "o", markersize=3, color=REACHED if promise.reached else MISSED)
            axes.text(2.06, at, promise.figure, ha="left", va="center", fontsize=8.5)
            axes.text(3.0, at, promise.target, ha="left", va="center", fontsize=8.5, color=DIM)
        for at, name in labels:
            axes.text(-2.06, at, name, ha="right", va="center", fontsize=10, fontweight="bold", color=LEVEL_COLORS[1])
        axes.axvline(0, color=TEXT, linewidth=1)
        axes.set(xlim=(-2, 2), ylim=(place, -1.2))
        axes.set_yticks([])
        ticks = [-2, -1, 0, 1, 2]
        axes.set_xticks(ticks, ["100x short", "10x", "target", "10x", "100x better"], fontsize=8.5)
        axes.xaxis.tick_top()
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        reached = sum(promise.reached for promise in promises)
        figure.text(0.015, 0.985, f"{reached} of {len(promises)} targets reached", fontsize=17, va="top")
        figure.savefig(path, facecolor=BACKGROUND)


def _units(machine: dict[str, Any]) -> str:
    """What the processor multiplies with; results from before it was noted say nothing."""
    return f" ({machine['matrix_units']})" if machine.get("matrix_units") else ""


def _figure(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON (default: %(default)s)")
    arguments.add_argument("--docs", type=Path, default=DOCS, help="where the page goes (default: %(default)s)")
    given = arguments.parse_args()
    results = read_results(given.results)
    (given.docs / "images").mkdir(parents=True, exist_ok=True)
    (given.docs / "benchmark-results.md").write_text(page(results), encoding="utf-8")
    draw(promises_of(results), given.docs / "images" / "benchmarks.png")
    for name, (picture, _, draw_picture) in PICTURES.items():
        if name in results:
            draw_picture(results[name]["rows"], given.docs / "images" / picture)
    print(f"written to {given.docs / 'benchmark-results.md'} and {given.docs / 'images' / 'benchmarks.png'}")


if __name__ == "__main__":
    main()
