"""Figures of a card are replaced, and nothing else of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.training.card import END, begin, percent, rewrite_figures, table, tables_of, write_figures


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"before\n{begin('a.py')}\nold \\1\n{END}\nafter\n")
    rewrite_figures(card, table(("kind", "exact"), [("code", r"\1 %")]), writer="a.py")
    assert card.read_text() == (
        f"before\n{begin('a.py')}\n\n| kind | exact |\n| --- | --- |\n| code | \\1 % |\n\n{END}\nafter\n"
    )
    with pytest.raises(InvalidValueError, match="the markers are missing"):
        rewrite_figures(card, "", writer="b.py")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"{END}\n{begin('a.py')}\n".encode(), "end -->' stands before '<!-- figures: begin"),
        (f"{begin('a.py')} caf\xe9 {END}".encode("latin-1"), r"README\.md is not UTF-8 \('utf-8' codec can't decode"),
    ],
)
def test_a_card_that_cannot_be_rewritten_is_refused(content: bytes, line: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(content)
    with pytest.raises(InvalidValueError, match=line):
        rewrite_figures(card, "figures", writer="a.py")
    assert card.read_bytes() == content


def test_a_figure_that_is_no_number_is_named(tmp_path: Path) -> None:
    figures = {"plain": {"bits": [1.0, math.nan]}, "n": 3}
    with pytest.raises(InvalidValueError, match=r"lens\.json: plain/bits/1 is nan, which is no figure for the card"):
        tables_of(tmp_path / "lens.json", lambda _: [], figures)


def test_figures_are_written_as_json_has_them(tmp_path: Path) -> None:
    path = tmp_path / "lens.json"
    write_figures(path, {"hits": [1.5, None]}, of="a lens")
    assert json.loads(path.read_text()) == {"hits": [1.5, None]}
    with pytest.raises(
        BaseModelError, match=r"a lens gives figures that are no numbers \(hits/0 is inf\), .*take another model$"
    ):
        write_figures(path, {"hits": [math.inf]}, of="a lens")
    assert json.loads(path.read_text()) == {"hits": [1.5, None]}


def test_a_card_that_is_not_there_is_begun(tmp_path: Path) -> None:
    card = tmp_path / "my-core" / "README.md"
    card.parent.mkdir()
    rewrite_figures(card, "figures", writer="a.py")
    assert card.read_text().startswith("# my-core\n\nTo be said here: what it is for")
    rewrite_figures(card, "others", writer="a.py")
    assert card.read_text().endswith(f"\n\n{begin('a.py')}\n\nothers\n\n{END}\n")


def test_a_share_says_how_sure_it_is() -> None:
    assert percent({"accuracy": 0.875, "standard_error": 0.0123, "n": 720}) == "87.5 ± 1.2 % (n = 720)"
    assert percent({"accuracy": None, "standard_error": None, "n": 0}) == "- (n = 0)"
