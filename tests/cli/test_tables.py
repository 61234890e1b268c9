"""Tables on wide and narrow terminals: nothing in them is ever cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from megacontext.cli.tables import print_table

PATH = "notes/of/a/deep/folder/architecture-decision-record-0042.md"
COLUMNS = ["score", "source", "tokens", "text"]
ROW = ("1.5", PATH, "96:224", "a passage of several words that needs more than one line to be said")


def lines_of(width, rows, columns=COLUMNS, right=("score", "tokens"), **options):
    out = Console(file=io.StringIO(), width=width)
    print_table(out, columns, rows, right=right, **options)
    return out.file.getvalue().splitlines()


def test_a_wide_terminal_shows_columns():
    lines = lines_of(160, [ROW])
    assert lines[0].split() == COLUMNS
    assert PATH in lines[1]
    assert "96:224  a passage" in lines[1]


def test_the_last_column_of_text_is_wrapped_while_it_has_room():
    lines = lines_of(len(PATH) + 45, [ROW])
    assert lines[0].split() == COLUMNS
    assert len(lines) > 2
    assert " ".join(" ".join(lines[1:]).split()).endswith("one line to be said")


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_narrow_terminal_shows_paragraphs(width):
    lines = lines_of(width, [ROW], title="source")
    assert lines[0] == PATH
    assert all(line.startswith("  ") for line in lines[1:])
    assert all(len(line) <= width for line in lines[1:])
    assert " ".join(" ".join(lines[1:]).split()) == f"score 1.5 tokens 96:224 {ROW[3]}"


@pytest.mark.parametrize("width", [10, 30, 60, 100, 200])
def test_nothing_is_cut(width):
    text = "\n".join(lines_of(width, [ROW, ("2.5", "x", "1:2", "")], title="source"))
    assert "…" not in text
    assert PATH in text


def test_numbers_in_the_last_column_are_not_wrapped():
    lines = lines_of(
        24,
        [("megacontext", "1,024", "3.141")],
        ["method", "window", "nats per token"],
        right=["window", "nats per token"],
    )
    assert lines == ["megacontext", "  window 1,024", "  nats per token 3.141"]


def test_a_short_last_column_stands_with_the_facts_and_an_empty_one_nowhere():
    columns = ["source", "size", "role, labels"]
    rows = [(PATH, "45 B", "user"), (PATH, "46 B", "")]
    lines = lines_of(40, rows, columns, right=["size"])
    assert lines == [PATH, "  size 45 B  role, labels user", PATH, "  size 46 B"]


def test_only_the_names_of_facts_are_dim():
    out = Console(file=io.StringIO(), width=30, force_terminal=True, color_system="truecolor")
    print_table(out, COLUMNS, [ROW], title="source")
    assert "\x1b[2mscore \x1b[0m1.5" in out.file.getvalue()
