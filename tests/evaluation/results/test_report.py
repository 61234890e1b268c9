"""What tables, sentences, page and picture say of records made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megacontext.evaluation.methods.contenders import Contender, contenders
from megacontext.evaluation.results.account import TaskAccount, account_json, account_of
from megacontext.evaluation.results.page import report_html
from megacontext.evaluation.results.picture import draw_report, telling_table
from megacontext.evaluation.results.screen import grids, notes
from megacontext.evaluation.results.sentences import sentences
from megacontext.evaluation.runs.records import Record
from megacontext.evaluation.runs.trials import ItemResult
from megacontext.evaluation.tasks.registry import TASKS
from megacontext.testing.fake_base import tiny_base

ROWS = contenders(tiny_base().info)
NATS = {"full": 1.0, "recency": 3.0, "auto": 1.5, "random": 3.1, "mean": 2.0, "mean-shuffled": 2.0}
ABOUT = {
    "settings": {
        "base": "<tiny>",
        "positions": 4096,
        "budget_entries": 512,
        "base_fingerprint": "abc",
        "seed": 0,
        "is_quick": True,
        "block_tokens": 32,
        "gist_width": 1,
    },
    "machine": {"processor": "p", "num_cores": 2},
    "date": "2026",
    "commit": "",
}


def made(nats: Mapping[str, float] = NATS, *, distances: tuple[str, ...] = ("256", "1 k")) -> list[Record]:
    """Four histories with a question at each distance; the farther one is half a nat harder for all."""
    return [
        Record(
            task="distance",
            key=f"h{number}",
            facets={"length": "4 k"},
            budget=512,
            method=method,
            items=tuple(
                ItemResult(
                    facets={"distance": distance},
                    measures={
                        "score": (float(value < 1.8), 1),
                        "answer nats": ((value + far / 2 + number / 10) * 5, 5),
                    },
                )
                for far, distance in enumerate(distances)
            ),
        )
        for number in range(4)
        for method, value in nats.items()
    ]


def account(records: list[Record] | None = None) -> TaskAccount:
    skipped = Record(
        task="distance", key="h0", facets={}, budget=512, method="gistnet", skipped="tiny has no learned gists"
    )
    return account_of(TASKS["distance"], [*(records or made()), skipped], ROWS)


def grid_row(found: TaskAccount, label: str, metric: int = 1) -> list[str]:
    rows: list[list[str]] = [list(row) for row in grids(found, ROWS)[metric].rows]
    return next(row for row in rows if row[0] == label)


def test_a_table_has_parts_all_differences_and_closure() -> None:
    found = account()
    assert [table.metric.name for table in found.tables] == ["score", "answer nats"]
    assert list(grids(found, ROWS)[1].header) == ["method", "256", "1 k", "all", "against recency", "closure"]
    assert grid_row(found, "lens auto") == [
        "lens auto",
        "1.650",
        "2.150",
        "1.900",
        "-1.500 [-1.500, -1.500]",
        "0.75 [0.75, 0.75]",
    ]


def test_a_closure_that_a_control_reaches_is_withheld() -> None:
    assert grid_row(account(), "mean gists")[-1] == "no more than control"
    better = account(made(NATS | {"mean-shuffled": 2.6}))
    assert grid_row(better, "mean gists")[-1] == "0.50 [0.50, 0.50]"
    assert account_json(account())["tables"][1]["methods"]["mean"]["all"]["closure"] is None


def test_figures_of_half_a_part_are_marked() -> None:
    half = [record for record in made() if record.method != "auto" or record.key < "h2"]
    row = grid_row(account(half), "lens auto")
    assert row[1:4] == ["1.550*", "2.050*", "1.800*"]
    assert row[4] == "-1.500 [-1.500, -1.500]"  # differences are of what both met


def test_sentences_say_what_controls_allow() -> None:
    said = sentences(account().tables[1], ROWS)
    assert said[0].startswith("Full context gains +2.000 [+2.000, +2.000] nats")
    assert said[1] == "Best within the budget: lens auto, -1.500 [-1.500, -1.500] against recency."
    assert said[2].startswith("No gists can be told from their controls")
    better = sentences(account(made(NATS | {"mean-shuffled": 2.6})).tables[1], ROWS)
    assert better[2] == "More than all of their controls say: mean gists."
    flat = sentences(account(made(dict.fromkeys(NATS, 2.0))).tables[1], ROWS)
    assert flat[0].endswith("too little for closures.")
    assert flat[1] == "Nothing within the budget is better than recency."


def test_sentences_do_not_say_what_was_not_run() -> None:
    def said_of(*methods: str) -> list[str]:
        records = [record for record in made() if record.method in methods]
        return sentences(account(records).tables[1], [row for row in ROWS if row.name in methods])

    gap, best = said_of("recency", "full")
    assert gap.startswith("Full context gains +2.000")
    assert gap.endswith("nats per token over recency.")
    assert best == "Nothing stands beside recency."
    assert said_of("recency", "full", "mean")[2].startswith("No control of the gists was run")


def test_reasons_are_told_once_for_all_who_share_them() -> None:
    assert notes(account(), ROWS) == ["learned gists: tiny has no learned gists"]


def test_json_is_json(tmp_path: Path) -> None:
    one = account_of(TASKS["distance"], made(distances=("256",))[:6], ROWS)  # one history: intervals are infinite
    text = json.dumps(account_json(one), allow_nan=False)
    estimate: dict[str, Any] = json.loads(text)["tables"][1]["methods"]["auto"]["256"]["estimate"]
    assert (estimate["low"], estimate["high"]) == (None, None)


@pytest.mark.parametrize("records", [made(), made(distances=("256",))[:6]], ids=["many", "one"])
def test_the_page_shows_every_row_and_escapes_names(records: list[Record]) -> None:
    rows: dict[str, list[Contender]] = {"distance": ROWS}
    html = report_html(ABOUT, [account(records)], rows)
    for label in ("full context", "recency", "lens auto", "mean gists, shuffled"):
        assert html.count(f">{label}<") >= 2  # picture and table
    assert "<tiny>" not in html
    assert "&lt;tiny&gt;" in html
    assert "nan" not in html
    assert "a quick run" in html


def test_the_picture_shows_the_metric_that_tells_rows_apart(tmp_path: Path) -> None:
    alike = account(made({name: 2.0 + number / 10 for number, name in enumerate(NATS)}))  # nobody states the answer
    table = telling_table(alike)
    assert table is not None
    assert table.metric.name == "answer nats"
    draw_report(tmp_path / "report.png", ABOUT, [account(), alike], {"distance": ROWS})
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
