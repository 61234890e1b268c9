"""Draw what runs logged while they trained: one panel for each kind of figure, one line for each way to show the past.

`python recipes/core/curves.py --runs MEMORY FURTHER SETTLED LAST [--runs MEMORY2 FURTHER2 ...] --out PNG [--laws JSON]`

Each `--runs` names, in order, runs that went on one from another (or a model, which holds all their logs); runs of a
second `--runs` are drawn dashed, of a third dotted. Losses are those of training batches, before each step.

`--laws` also fits how answers from gists, text after them and what they cost above the text (delta-NLL@64, held-out)
fall with the tokens seen, L(D) = floor + factor / (D / 10^6)^power, to the first `--runs`; says how far the others lie
from it, and what it foretells for more tokens. Rates rise and fall within each run, so the laws are of recipes that
go on in this way, and of this size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, TEXT
from megacontext.training.run_curves import RunCurves, read_run_curves
from megacontext.training.scaling import fit_power
from megacontext.units import format_count

Names = Mapping[str, Sequence[str]]
RAW, STRONG, MIDDLE, WEAK, ALONE = TEXT, *LEVEL_COLORS[:3], "#6fb3d2"
PANELS: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]] = {
    "answers in short rows, nats a token": {
        f"{ratio} tokens a gist": (
            color,
            [f"answer/aligned{code}_256_gists_32_{32 // ratio}" for code in ("", "_code")],
        )
        for ratio, color in zip((2, 4, 8, 16, 32), (RAW, STRONG, MIDDLE, WEAK, ALONE), strict=True)
    },
    "answers in 2,048 tokens of text, nats a token": {
        "read in full": (RAW, ["answer/recall_2048"]),
        "8 tokens a gist": (STRONG, ["answer/recall_2048_gists_8_1", "answer/recall_2048_gists_32_4"]),
        "32 tokens a gist": (MIDDLE, ["answer/recall_2048_gists_32_1"]),
        "32 tokens a gist, facts across borders": (
            ALONE,
            [f"answer/strewn{code}_1536_gists_32_1" for code in ("", "_code")],
        ),
    },
    "running text, nats a token": {
        "read in full": (RAW, ["text/plain_2048"]),
        "8 tokens a gist": (STRONG, ["text/plain_2048_gists_8_1", "text/plain_2048_gists_32_4"]),
        "32 tokens a gist": (MIDDLE, ["text/plain_2048_gists_32_1"]),
    },
    "what held-out text costs more after gists of what precedes it, nats a token": {
        "level 1": (STRONG, ["delta_nll_64/level_1"]),
        "level 2": (ALONE, ["delta_nll_64/level_2"]),
    },
}
FITTED: Names = {
    "answers in short rows, 32 tokens a gist": [f"answer/aligned{code}_256_gists_32_1" for code in ("", "_code")],
    "answers in 2,048 tokens of text, 32 tokens a gist": ["answer/recall_2048_gists_32_1"],
    "facts across borders, 32 tokens a gist": [f"answer/strewn{code}_1536_gists_32_1" for code in ("", "_code")],
    "puzzles in 2,048 tokens of text, 32 tokens a gist": ["answer/puzzles_2048_gists_32_1"],
    "text after gists of 32 tokens": ["text/plain_2048_gists_32_1"],
    "delta-NLL@64, level 1": ["delta_nll_64/level_1"],
    "delta-NLL@64, level 2": ["delta_nll_64/level_2"],
}
NUM_FITTED = 16  # means of as many places, evenly spread over the logarithm of the tokens
FORETOLD = (1.6e8, 3.2e8)  # tokens
STYLES = ("-", "--", ":")
FORMATS = (".png", ".svg", ".pdf")
SMOOTHED = 20  # lines of the log, each of ten steps


def draw(several: Sequence[RunCurves], path: Path) -> None:
    """One panel a group of figures, all over the tokens of all runs."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colors = {"text.color": TEXT, "axes.labelcolor": DIM, "axes.edgecolor": FAINT, "axes.facecolor": BACKGROUND}
    with mpl.rc_context({**colors, "xtick.color": DIM, "ytick.color": DIM, "font.size": 9}):
        figure = Figure(figsize=(14, 8.5), dpi=130, facecolor=BACKGROUND)
        FigureCanvasAgg(figure)
        for number, (title, lines) in enumerate(PANELS.items(), start=1):
            axes = figure.add_subplot(2, 2, number)
            _panel(axes, several, lines)
            axes.set_title(title, loc="left", fontsize=11)
        figure.tight_layout(h_pad=2.5, w_pad=2.5)
        figure.savefig(path, facecolor=BACKGROUND)


def _panel(axes: Any, several: Sequence[RunCurves], lines: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    for curves, style in zip(several, STYLES, strict=False):
        for label, (color, names) in lines.items():
            rare = any(name.startswith("delta_nll") for name in names)
            tokens, values = curves.curve(*names, over=1 if rare else SMOOTHED)
            if len(values):
                shown = label if curves is several[0] else None
                axes.plot(tokens, values, style, color=color, label=shown, lw=1.3, marker="o" if rare else None, ms=3)
    axes.set_xlim(0, max(curves.lines[-1]["tokens"] for curves in several if curves.lines))
    for start in several[0].starts[1:]:
        axes.axvline(start, color=FAINT, lw=1, zorder=0)
    axes.grid(axis="y", color=FAINT, lw=0.4, alpha=0.6)
    axes.xaxis.set_major_formatter(lambda value, _: format_count(int(value)) if value else "0")
    axes.set_xlabel("tokens seen")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(facecolor=BACKGROUND, edgecolor="none", framealpha=1, fontsize=8, labelcolor=TEXT)


def laws(several: Sequence[RunCurves]) -> dict[str, dict[str, Any]]:
    """By figure: the law through the first runs, its mean distance in nats from each of them all, what it foretells."""
    found: dict[str, dict[str, Any]] = {}
    for name, figures in FITTED.items():
        points = [_places(curves, figures) for curves in several]
        if len(points[0]) < NUM_FITTED // 2:
            continue
        law = fit_power(points[0])
        misses = [[abs(law.at(millions) - nats) for millions, nats in some.items()] for some in points]
        found[name] = {
            **{key: round(value, 4) for key, value in asdict(law).items()},
            "mean_distance": [round(sum(some) / len(some), 4) if some else None for some in misses],
            "foretold": {f"{tokens:.0f}": round(law.at(tokens / 1e6), 4) for tokens in FORETOLD},
        }
    return found


def _places(curves: RunCurves, names: Sequence[str]) -> dict[float, float]:
    """Nats by millions of tokens seen, at some places; all of them where there are few."""
    rare = any(name.startswith("delta_nll") for name in names)
    tokens, values = curves.curve(*names, over=1 if rare else SMOOTHED)
    first = 0 if rare else SMOOTHED
    if len(tokens) <= first:
        return {}
    wanted = np.geomspace(tokens[first], tokens[-1], NUM_FITTED)
    places = range(len(tokens)) if rare else np.unique(np.searchsorted(tokens, wanted).clip(max=len(tokens) - 1))
    return {float(tokens[place]) / 1e6: float(values[place]) for place in places}


def main() -> None:
    """Read the logs, draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", action="append", required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--laws", type=Path, metavar="JSON", help="fit laws by tokens, too, and write them here")
    args = parser.parse_args()
    if len(args.runs) > len(STYLES):
        raise InvalidValueError(f"--runs is given {len(args.runs)} times; a picture holds {len(STYLES)} of them")
    if args.out.suffix.lower() not in FORMATS:
        raise InvalidValueError(f"--out is {args.out}, which is no picture; end its name with {' or '.join(FORMATS)}")
    for path in (args.out, args.laws):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidValueError(f"{path.parent} is no folder; make it first, or write elsewhere")
    several = [read_run_curves(folders) for folders in args.runs]
    draw(several, args.out)
    print(args.out)
    if args.laws is not None:
        found = laws(several)
        args.laws.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    run_script(main)
