"""Tables and JSON say what was measured, with its uncertainty."""

from __future__ import annotations

import json

from megacontext.evaluation.cost import DecodeCost, DiskCost
from megacontext.evaluation.report import Costs, comparison_grid, comparison_json, cost_grid, html_table, rich_table
from megacontext.evaluation.scores import Comparison, MethodScore

COMPARISON = Comparison(
    title="one",
    num_tokens=1_000,
    budget_entries=128,
    scores=[
        MethodScore(name="recency", label="recency", correct=[False] * 20, nats=[2.0, 3.0, 2.5]),
        MethodScore(name="megacontext", label="MegaContext", correct=[True] * 19 + [False], nats=[1.9, 2.9, 2.4]),
        MethodScore(name="full", label="full context"),
    ],
)


def test_accuracy_comes_with_its_interval_and_nll_with_its_difference() -> None:
    grid = comparison_grid(COMPARISON)
    assert grid.rows[0] == ["recency", "0/20 = 0 %", "0 to 16 %", "2.500 ± 0.289", "="]
    assert grid.rows[1] == ["MegaContext", "19/20 = 95 %", "76 to 99 %", "2.400 ± 0.289", "-0.100 ± 0.000"]
    assert grid.rows[2] == ["full context", "-", "-", "-", "-"]
    assert grid.ours == [1]


def test_costs_are_told_in_units() -> None:
    costs = Costs(
        ingest_tokens=1_000_000,
        ingest_seconds=50.0,
        disk=DiskCost(tokens=1.5, gists=16.5, raw=1.2, catalog=4.0),
        decode=[DecodeCost(num_tokens=10_000, first_ms=90, per_token_ms=7.04, with_refocus_ms=9, num_generated=32)],
    )
    rows = cost_grid(costs).rows
    assert rows[0] == ["generate, history 10 k", "7.0 ms per token", "9.0 ms with refocuses; first token after 90 ms"]
    assert rows[1][1] == "23.2 bytes per token"
    assert rows[2][1] == "20 k tokens/s"


def test_json_keeps_every_trial() -> None:
    content = json.loads(json.dumps(comparison_json(COMPARISON)))
    ours = content["methods"][1]
    assert len(ours["correct"]) == 20
    assert ours["accuracy"]["trials"] == 20
    assert content["verdicts"][0].startswith("MegaContext finds most hidden facts")


def test_tables_are_drawn() -> None:
    grid = comparison_grid(COMPARISON)
    assert rich_table(grid).row_count == 3
    assert html_table(grid).count("<tr") == 4
