"""The run as one page: pictures drawn as inline SVG, tables, questions with answers. Works offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from megacontext.evaluation.focus_trace import FocusStep, FocusTrace, joined_sources, raster, ribbons
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, PANEL, TEXT, level_color, level_name
from megacontext.units import format_count

__all__ = ["fan_svg", "legend_html", "page_html", "time_svg"]

WIDTH = 1200
FAN_HEIGHT = 250
ROW_HEIGHT = 11
NUM_COLUMNS = 600

STYLE = f"""
:root {{ color-scheme: dark; }}
body {{ background: {BACKGROUND}; color: {TEXT}; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  max-width: 1200px; margin: 0 auto; padding: 48px 28px 80px; }}
h1 {{ font-size: 44px; line-height: 1.1; margin: 0 0 8px; letter-spacing: -0.02em; }}
h2 {{ font-size: 22px; margin: 56px 0 12px; }}
p, li {{ max-width: 820px; }}
.dim, caption, figcaption {{ color: {DIM}; }}
.lead {{ font-size: 19px; color: {DIM}; margin-top: 0; }}
.verdict {{ border-left: 3px solid {level_color(0)}; padding: 4px 0 4px 16px; font-size: 18px; margin: 20px 0; }}
figure {{ margin: 24px 0; }}
svg {{ width: 100%; height: auto; display: block; }}
.legend span {{ margin-right: 22px; white-space: nowrap; }}
.legend i {{ display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 7px;
  vertical-align: -1px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; background: {PANEL}; border-radius: 10px; overflow: hidden; min-width: 60%; }}
caption {{ text-align: left; padding: 8px 0; }}
th, td {{ padding: 9px 18px; text-align: right; border-bottom: 1px solid {FAINT}; font-variant-numeric: tabular-nums; }}
th {{ color: {DIM}; font-weight: 500; }}
td:first-child, th:first-child {{ text-align: left; }}
tr:last-child td {{ border-bottom: none; }}
tr.ours td {{ color: {level_color(0)}; }}
.qa {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 16px; }}
.qa div {{ background: {PANEL}; border-radius: 10px; padding: 16px 20px; }}
.qa b {{ display: block; }}
.qa q {{ color: {DIM}; font-size: 14px; display: block; margin-top: 8px; quotes: none; border-left: 2px solid {FAINT};
  padding-left: 10px; overflow-wrap: anywhere; }}
.right {{ color: #8fd694; }} .wrong {{ color: #ff7b72; }}
footer {{ margin-top: 64px; color: {DIM}; font-size: 14px; }}
"""


def page_html(title: str, lead: str, sections: Sequence[str], *, footer: str) -> str:
    """A whole page; ``title``, ``lead`` and ``footer`` are plain text, sections are HTML."""
    return (
        "<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p class='lead'>{escape(lead)}</p>\n"
        + "\n".join(sections)
        + f"\n<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def legend_html(num_levels: int) -> str:
    """What the colours mean."""
    items = "".join(
        f"<span><i style='background:{level_color(n)}'></i>{level_name(n)}</span>" for n in range(num_levels)
    )
    return f"<p class='legend dim'>{items}</p>"


def fan_svg(step: FocusStep) -> str:
    """One window: the history above, the window's entries below, and which part fills which."""
    runs = ribbons(step)
    budget = max(run.window_stop for run in runs)
    body = []
    for run in sorted(runs, key=lambda run: -run.level):
        color, raw = level_color(run.level), run.level == 0
        top = [WIDTH * place / step.num_tokens for place in (run.start, run.stop)]
        low = [WIDTH * place / budget for place in (run.window_start, run.window_stop)]
        tip = (
            f"<title>tokens {run.start:,} to {run.stop:,}: {level_name(run.level)}, "
            f"{run.window_stop - run.window_start} of {budget} window entries</title>"
        )
        path = f"M{top[0]:.1f} 74L{top[1]:.1f} 74L{low[1]:.1f} 196L{low[0]:.1f} 196Z"
        body.append(
            f"<g fill='{color}'>{tip}<path opacity='{0.55 if raw else 0.2}' d='{path}'/>"
            f"<rect x='{top[0]:.1f}' y='40' width='{max(2.0 if raw else 0.5, top[1] - top[0]):.1f}' height='34'/>"
            f"<rect x='{low[0]:.1f}' y='196' width='{low[1] - low[0]:.1f}' height='34'/></g>"
        )
    if step.evidence:
        x = WIDTH * step.evidence[0] / step.num_tokens
        anchor = "start" if x < 0.8 * WIDTH else "end"
        shift = 10 if anchor == "start" else -10
        body.append(f"<path fill='{TEXT}' d='M{x - 5:.1f} 26h10l-5 10z'/>")
        body.append(_text(x + shift, 35, "the answer stands here", fill=TEXT, anchor=anchor))
    body.append(_text(0, 14, f"history: {step.num_tokens:,} tokens"))
    body.append(_text(WIDTH, 248, f"what the model saw: {budget:,} window entries", anchor="end"))
    return _svg(FAN_HEIGHT + 4, body)


def time_svg(trace: FocusTrace) -> str:
    """All steps, one row each: the finest level shown in every stretch of the history."""
    levels = raster(trace.steps, start=0, stop=trace.num_tokens, num_columns=NUM_COLUMNS)
    top, left = 36, 34
    scale = (WIDTH - left) / NUM_COLUMNS
    body = []
    for number, (row, step) in enumerate(zip(levels.tolist(), trace.steps, strict=True)):
        y = top + number * ROW_HEIGHT
        mark = {True: " (right)", False: " (wrong)", None: ""}[step.correct]
        body.append(f"<g><title>{number + 1}. {escape(step.label)}{mark}</title>")
        for start, stop, level in _level_runs(row):
            body.append(
                f"<rect x='{left + start * scale:.1f}' y='{y}' width='{(stop - start) * scale + 0.1:.1f}' "
                f"height='{ROW_HEIGHT + 0.2}' fill='{level_color(level) if level >= 0 else BACKGROUND}'/>"
            )
        if step.evidence:
            x = left + (WIDTH - left) * step.evidence[0] / trace.num_tokens
            fill = TEXT if step.correct else "none"
            body.append(f"<circle cx='{x:.1f}' cy='{y + ROW_HEIGHT / 2}' r='3.4' fill='{fill}' stroke='{TEXT}'/>")
        body.append("</g>")
        if number % 5 == 4:
            body.append(_text(left - 6, y + ROW_HEIGHT - 2, str(number + 1), anchor="end", size=10))
    bottom = top + len(trace.steps) * ROW_HEIGHT
    body += _source_strip(trace, top, left)
    for tick in range(0, trace.num_tokens + 1, _tick(trace.num_tokens)):
        x = left + (WIDTH - left) * tick / trace.num_tokens
        body.append(_text(x, bottom + 18, format_count(tick), anchor="start" if tick == 0 else "middle"))
    return _svg(bottom + 26, body)


def _source_strip(trace: FocusTrace, top: int, left: int) -> list[str]:
    body = []
    for start, stop, title, kind in joined_sources(trace):
        x, end = (left + (WIDTH - left) * place / trace.num_tokens for place in (start, stop))
        color = DIM if kind == "book" else FAINT
        body.append(
            f"<rect x='{x:.1f}' y='{top - 9}' width='{max(0.5, end - x):.1f}' height='6' fill='{color}'>"
            f"<title>{escape(title)}</title></rect>"
        )
        if end - x > 7 * len(title):
            body.append(_text((x + end) / 2, top - 15, title, anchor="middle", size=11))
    return body


def _tick(num_tokens: int) -> int:
    """A round step that gives two to ten ticks."""
    step = 1
    while num_tokens > 10 * step:
        step *= 2 if num_tokens <= 20 * step else 10
    return step


def _level_runs(row: Sequence[int]) -> list[tuple[int, int, int]]:
    runs: list[tuple[int, int, int]] = []
    for column, level in enumerate(row):
        if runs and runs[-1][2] == level:
            runs[-1] = (runs[-1][0], column + 1, level)
        else:
            runs.append((column, column + 1, level))
    return runs


def _text(x: float, y: float, words: str, *, fill: str = DIM, anchor: str = "start", size: int = 12) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' fill='{fill}' font-size='{size}' text-anchor='{anchor}' "
        f"font-family='system-ui, sans-serif'>{escape(words)}</text>"
    )


def _svg(height: float, body: Sequence[str]) -> str:
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img' xmlns='http://www.w3.org/2000/svg'>{''.join(body)}</svg>"
