"""The files that a demo leaves: results.json, index.html, detail.png."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.evaluation.focus_trace import FocusStep, showcase
from megacontext.evaluation.page import fan_svg, legend_html, page_html, time_svg
from megacontext.evaluation.report import comparison_grid, comparison_json, cost_grid, html_table
from megacontext.evaluation.scores import Comparison, verdicts
from megacontext.units import format_count

if TYPE_CHECKING:
    from megacontext.evaluation.demo import DemoResult

__all__ = ["OUTPUTS", "RESULTS", "write_outputs"]

PAGE, PICTURE, RESULTS = OUTPUTS = ("index.html", "detail.png", "results.json")


def write_outputs(out: Path, result: DemoResult, settings: Mapping[str, Any]) -> list[Path]:
    """Write everything to ``out``; the files to look at. Without matplotlib (extra ``figures``) there is no PNG."""
    page, picture, results = out / PAGE, out / PICTURE, out / RESULTS
    content = json.dumps(_content(result, settings), indent=2, default=float, allow_nan=False)
    results.write_text(content + "\n", encoding="utf-8")
    page.write_text(_page(result), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        return [page, results]
    from megacontext.evaluation.figures import draw_figure

    draw_figure(picture, result.trace, result.comparison, result.costs.decode)
    return [page, picture, results]


def _content(result: DemoResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "demo": dict(settings),
        **result.stamp,
        "comparison": comparison_json(result.comparison),
        "short_histories": comparison_json(result.short),
        "costs": asdict(result.costs),
        "seconds": result.seconds,
        "samples": result.samples,
    }


def _sentences(comparison: Comparison) -> str:
    return "".join(f"<p class='verdict'>{escape(sentence)}</p>" for sentence in verdicts(comparison))


def _page(result: DemoResult) -> str:
    step = showcase(result.trace)
    sections = [
        _sentences(result.comparison),
        html_table(comparison_grid(result.comparison)),
        "<h2>What one question shows the model</h2>" + _caption(step),
        legend_html(result.trace.num_levels) + f"<figure>{fan_svg(step)}</figure>",
        "<h2>Every question moves the detail</h2>",
        "<p class='dim'>One row a question, one column a stretch of the history, coloured by the finest level shown "
        "in it. A circle marks where the answer stands; it is filled where the answer was right.</p>",
        f"<figure>{time_svg(result.trace)}</figure>",
        "<h2>Some answers, and what they rest on</h2>" + _samples(result.samples),
        "<h2>Where the whole text would fit</h2>"
        + _sentences(result.short)
        + html_table(comparison_grid(result.short)),
        "<h2>What it costs</h2>" + html_table(cost_grid(result.costs)),
    ]
    machine = result.stamp["machine"]
    assert isinstance(machine, dict)
    return page_html(
        "Where the detail lay",
        f"{format_count(result.comparison.num_tokens)} tokens of books and source code, seen through a window of "
        f"{result.comparison.budget_entries:,} entries.",
        sections,
        footer=f"{result.stamp['date']}, commit {result.stamp['commit'] or 'unknown'}, {machine['processor']}, "
        f"{machine['num_cores']} cores. Intervals are 95 %, ± is one standard error, differences are paired.",
    )


def _caption(step: FocusStep) -> str:
    return (
        f"<p><b>{escape(step.label)}</b> Above is everything that was read; below, the window that the model saw. "
        "What is far from the question stays a few gists; the place of the answer and the last page are open.</p>"
    )


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    for sample in samples:
        mark = "right" if sample["correct"] else "wrong"
        quotes = "".join(
            f"<q>{escape(' '.join(span['quote'].split()))}<br>{escape(span['uri'])}, line {span['line_start']}</q>"
            for span in sample["sources"]
        )
        cards.append(
            f"<div><b>{escape(sample['question'])}</b><span class='{mark}'>{escape(sample['answer'])} ({mark})</span>"
            f"{quotes}</div>"
        )
    return f"<div class='qa'>{''.join(cards)}</div>"
