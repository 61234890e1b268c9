"""Draw what runs logged while they trained: one panel for each kind of figure, one line for each way to show the past.

`python recipes/core/curves.py --runs MEMORY FURTHER SETTLED LAST [--runs MEMORY2 FURTHER2 ...] --out PNG`

Each `--runs` names, in order, runs that went on one from another (or a model, which holds all their logs); runs of a
second `--runs` are drawn dashed, of a third dotted. Losses are those of training batches, before each step.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacontext.cli.failures import run_script
from megacontext.errors import InvalidValueError
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, TEXT
from megacontext.training.run_curves import RunCurves, read_run_curves
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
    "what gists of held-out text save, nats a token": {
        "level 1": (STRONG, ["delta_nll_64/level_1"]),
        "level 2": (ALONE, ["delta_nll_64/level_2"]),
    },
}
STYLES = ("-", "--", ":")
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


def main() -> None:
    """Read the logs, draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", action="append", required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    if len(args.runs) > len(STYLES):
        raise InvalidValueError(f"--runs is given {len(args.runs)} times; a picture holds {len(STYLES)} of them")
    draw([read_run_curves(folders) for folders in args.runs], args.out)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
