from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megacontext.cli.focus_picture import strip
from megacontext.cli.screen import PIPED_WIDTH, counted, output_console, place_of, print_json, quote, shorten_uri


def test_a_short_text_is_quoted_whole_on_one_line():
    assert quote(" two\n lines\x1b[31m\t") == "two lines [31m"


@pytest.mark.parametrize("about", ["", "needle", "Needle? of the", "nothing here"])
def test_a_long_text_is_cut_around_what_it_is_about(about):
    text = "hay " * 200 + "needle " + "hay " * 200
    cut = quote(text, about=about)
    assert len(cut) <= 160
    assert cut.endswith("…")
    assert ("needle" in cut) == ("needle" in about.lower())


def test_the_end_of_a_long_text_is_not_followed_by_dots():
    assert quote("hay " * 200 + "needle", about="needle").endswith("needle")


def test_places_are_what_editors_open(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "notes a.md").as_uri()
    assert place_of(uri, 3, 3) == "notes a.md:3"
    assert place_of(uri, 3, 5) == "notes a.md:3-5"
    assert place_of("chat", 0, 0) == "chat"
    assert place_of("file:///elsewhere/x.md", 0, 0) == str(Path("/elsewhere/x.md"))


def test_a_strip_shows_the_finest_level_of_each_share():
    levels, edges = np.array([2, 0, 1, 3]), np.array([0, 50, 51, 75, 100])
    assert strip(levels, edges, 4).plain == "▒▒█░"
    assert strip(levels, edges, 100).plain == "▒" * 50 + "█" + "▓" * 24 + "░" * 25


def test_names_keep_to_one_line_and_leave_the_terminal_alone():
    assert shorten_uri("file:///notes/two%0Alines%1B[31m.txt") == r"/notes/two\nlines\x1b[31m.txt"
    assert shorten_uri("chat\tof today") == r"chat\tof today"


def test_json_has_no_numbers_that_are_none(capsys):
    print_json({"error": float("inf"), "nats": [1.5, float("nan")], "count": 3})
    assert json.loads(capsys.readouterr().out) == {"error": None, "nats": [1.5, None], "count": 3}


def test_a_width_that_is_no_width_is_the_usual_one(monkeypatch):
    for columns, width in (("2", 20), ("0", PIPED_WIDTH), ("x", PIPED_WIDTH), ("90", 90)):
        monkeypatch.setenv("COLUMNS", columns)
        assert output_console().width == width


@pytest.mark.parametrize(("number", "text"), [(0, "0 sources"), (1, "1 source"), (1024, "1,024 sources")])
def test_counted(number, text):
    assert counted(number, "source") == text
