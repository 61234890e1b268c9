"""The report as one page that works offline: for each task what it says, a picture, and tables with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from megacontext.evaluation.methods.contenders import Contender
from megacontext.evaluation.page import page_html
from megacontext.evaluation.palette import BACKGROUND, DIM, FAINT, LEVEL_COLORS, PANEL, TEXT
from megacontext.evaluation.results.account import Table, TaskAccount
from megacontext.evaluation.results.screen import closure, difference, figure, interval, is_partial, notes
from megacontext.evaluation.results.sentences import sentences

__all__ = ["KIND_COLORS", "KIND_NAMES", "memory_shape", "report_html"]

KIND_COLORS = {
    "limit": TEXT,
    "plain": "#7aa2f7",
    "gists": LEVEL_COLORS[1],
    "lens": LEVEL_COLORS[0],
    "control": DIM,
}
KIND_NAMES = {
    "limit": "limits",
    "plain": "tokens only",
    "gists": "gists, nothing opened",
    "lens": "lenses open detail",
    "control": "controls",
}
STYLE = f"""<style>
h2 {{ border-top: 1px solid {FAINT}; padding-top: 28px; }} h3 {{ font-size: 16px; margin: 28px 0 8px; }}
td small {{ color: {DIM}; display: block; font-size: 11px; }} td {{ white-space: nowrap; }}
th, td {{ padding: 6px 12px; font-size: 14px; }} ul {{ margin: 8px 0; }}
details {{ margin: 12px 0; }} summary {{ cursor: pointer; color: {DIM}; }}
nav a {{ color: {KIND_COLORS["plain"]}; margin-right: 18px; }}
{" ".join(f".{kind} td:first-child {{ color: {color}; }}" for kind, color in KIND_COLORS.items())}
</style>"""
READING = """<p>Every row has the same window: history, question and answer together. <b>Closure</b> is the share of
what full context gains over recency that a row gains too; there is none where full context gains less than 0.1, and
none where a control of the row reaches as much: wrong gists that help are calibration, not memory. Intervals are 95 %
(bootstrap over histories); differences are paired. A star marks a figure of a row that could not meet all of a part.
</p>"""
ROW, LEFT, WIDTH = 22, 230, 1100


def report_html(
    about: Mapping[str, Any], accounts: Sequence[TaskAccount], rows: Mapping[str, Sequence[Contender]]
) -> str:
    """The whole page. rows: of each task, by its name."""
    settings = about["settings"]
    links = " ".join(f"<a href='#{escape(account.task.name)}'>{escape(account.task.name)}</a>" for account in accounts)
    sections = [STYLE, READING, _legend(), f"<nav>{links}</nav>"]
    sections += [part for account in accounts for part in _task(account, rows[account.task.name])]
    machine = about["machine"]
    return page_html(
        "What memory is worth",
        f"{settings['base']} (windows of up to {settings['positions']:,}), a window of "
        f"{settings['budget_entries']:,} entries unless a column says another; {memory_shape(settings)}.",
        sections,
        footer=f"{about['date']}, commit {about['commit'] or 'unknown'}, {machine['processor']}, "
        f"{machine['num_cores']} cores; base fingerprint {settings['base_fingerprint'][:12]}, seed {settings['seed']}"
        + (", a quick run: too few histories to conclude from." if settings["is_quick"] else "."),
    )


def memory_shape(settings: Mapping[str, Any]) -> str:
    """Of the memories of a run: blocks and vectors of a gist.

    >>> memory_shape({"block_tokens": 64, "gist_width": 2})
    'blocks of 64 tokens, 2 vectors a gist'
    """
    width = settings["gist_width"]
    return f"blocks of {settings['block_tokens']} tokens, {width} vector{'' if width == 1 else 's'} a gist"


def _task(account: TaskAccount, rows: Sequence[Contender]) -> list[str]:
    name, first = account.task.name, account.task.metrics[0]
    histories = f"{account.num_histories} histor{'y' if account.num_histories == 1 else 'ies'}"
    parts = [
        f"<h2 id='{escape(name)}'>{escape(name)}</h2><p>{escape(account.task.summary)}</p>"
        f"<p class='dim'>{escape(account.task.source)}. {histories}, {account.seconds:,.0f} s.</p>"
    ]
    for table in account.tables:
        title = ", ".join(text for text in (table.title, table.metric.title) if text)
        body = f"<figure>{dots_svg(table, rows)}</figure>{_table(table, rows)}"
        if table.metric == first:
            said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(table, rows))
            parts.append(f"<h3>{escape(title)}</h3><ul>{said}</ul>{body}")
        else:
            parts.append(f"<details><summary>{escape(title)}</summary>{body}</details>")
    missing = notes(account, rows)
    if missing:
        lines = "".join(f"<li>{escape(line)}</li>" for line in missing)
        parts.append(f"<details><summary>what has no figures</summary><ul class='dim'>{lines}</ul></details>")
    return parts


def _legend() -> str:
    items = "".join(
        f"<span><i style='background:{color}'></i>{KIND_NAMES[kind]}</span>" for kind, color in KIND_COLORS.items()
    )
    return f"<p class='legend dim'>{items}</p>"


def dots_svg(table: Table, rows: Sequence[Contender]) -> str:
    """Each row's figure over all parts, with its interval; lines mark recency and full context."""
    part = table.parts[-1]
    shown = [row for row in rows if part in table.cells.get(row.name, {})]
    estimates = {row.name: table.cells[row.name][part].estimate for row in shown}
    ends = [value for found in estimates.values() for value in (found.value, found.low, found.high)]
    finite = [value for value in ends if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if table.metric.is_loss else (0.0, 1.0)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        clipped = min(max(value, low), high)
        return LEFT + (WIDTH - LEFT - 70) * (clipped - low) / span

    height = ROW * len(shown) + 34
    body = []
    for name in ("recency", "full"):
        if name in estimates:
            at, color = x(estimates[name].value), KIND_COLORS["plain" if name == "recency" else "limit"]
            body.append(
                f"<line x1='{at:.1f}' x2='{at:.1f}' y1='4' y2='{height - 26}' stroke='{color}' opacity='0.35' "
                "stroke-dasharray='3 4'/>"
            )
    for number, row in enumerate(shown):
        found, y, color = estimates[row.name], 16 + number * ROW, KIND_COLORS[row.kind]
        star = "*" if is_partial(table, row.name, part) else ""
        text = f"{found.value:.2f}{star}" if not table.metric.is_loss else f"{found.value:.3f}{star}"
        body.append(
            f"<text x='{LEFT - 14}' y='{y + 4}' fill='{color}' font-size='13' text-anchor='end'>"
            f"{escape(row.label)}</text>"
            f"<line x1='{x(found.low):.1f}' x2='{x(found.high):.1f}' y1='{y}' y2='{y}' stroke='{color}' "
            "stroke-width='2' opacity='0.6'/>"
            f"<circle cx='{x(found.value):.1f}' cy='{y}' r='4.5' fill='{color}' stroke='{BACKGROUND}'>"
            f"<title>{escape(row.label)}: {text}</title></circle>"
            f"<text x='{WIDTH - 4}' y='{y + 4}' fill='{color}' font-size='12' text-anchor='end'>{text}</text>"
        )
    better = "left is better" if table.metric.is_loss else "right is better"
    body.append(
        f"<text x='{LEFT}' y='{height - 6}' fill='{DIM}' font-size='11'>{low:.2f}</text>"
        f"<text x='{WIDTH - 70}' y='{height - 6}' fill='{DIM}' font-size='11' text-anchor='end'>"
        f"{high:.2f}, {better}</text>"
    )
    return (
        f"<svg viewBox='0 0 {WIDTH} {height}' role='img' xmlns='http://www.w3.org/2000/svg' "
        f"font-family='system-ui, sans-serif'>{''.join(body)}</svg>"
    )


def _table(table: Table, rows: Sequence[Contender]) -> str:
    shown = [row for row in rows if row.name in table.cells]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *table.parts, "against recency", "closure"))
    body = "".join(_row(table, row) for row in shown)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(table: Table, row: Contender) -> str:
    cells = table.cells[row.name]
    whole = cells.get(table.parts[-1])
    parts = [f"<td>{escape(row.label)}</td>"]
    for part in table.parts:
        cell = cells.get(part)
        if cell is None:
            parts.append("<td>-</td>")
            continue
        star = "*" if is_partial(table, row.name, part) else ""
        form = ".3f" if table.metric.is_loss else ".2f"
        parts.append(
            f"<td style='background:{_shade(table, row.name, part)}'>{figure(cell, is_share=not table.metric.is_loss)}"
            f"{star}<small>{interval(cell.estimate, form)}</small></td>"
        )
    parts += [f"<td>{escape(text)}</td>" for text in (difference(whole), closure(whole))]
    return f"<tr class='{row.kind}'>{''.join(parts)}</tr>"


def _shade(table: Table, method: str, part: str) -> str:
    """The better within its column, the brighter."""
    values = {name: cells[part].estimate.value for name, cells in table.cells.items() if part in cells}
    low, high = min(values.values()), max(values.values())
    if high - low < 1e-9:
        return PANEL
    share = (values[method] - low) / (high - low)
    share = 1 - share if table.metric.is_loss else share
    return f"rgba(255, 209, 102, {0.28 * share:.2f})"
