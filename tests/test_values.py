from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from megacontext import values
from megacontext.errors import BudgetError, InvalidValueError, UnknownNameError
from megacontext.ports.focus import Lens


class Thing:
    """Some object; its name holds no address, because test names must be the same in every process."""

    def __repr__(self):
        return "<a thing>"


NO_NUMBERS = [None, "1", "x", True, np.True_, [], [1], {}, Thing(), b"1", 1j, int, np.array([1, 2])]


@pytest.mark.parametrize("kind", [int, np.int8, np.int64, np.uint32, np.uint64, np.asarray])
def test_a_whole_number_of_any_library_comes_back_as_pythons_own(kind):
    found = values.whole_number("limit", kind(5), least=5, most=5)
    assert (found, type(found)) == (5, int)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, 1.5, float("nan"), np.float32(1), Fraction(1)], ids=values.shown)
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(
        InvalidValueError, match=r"^limit is .*; choose a whole number of places of at least 1; 8 is us"
    ):
        values.whole_number("limit", value, least=1, of="places", usual=8)


@pytest.mark.parametrize("value", [7, 129, 10**30, 10**5000], ids=values.shown)
def test_a_whole_number_outside_its_limits_names_them(value):
    with pytest.raises(BudgetError, match=r"^width is .*; choose a whole number from 8 to 128$"):
        values.whole_number("width", value, least=8, most=128, error=BudgetError)


def test_no_whole_number_is_larger_than_the_libraries_below_can_count():
    assert values.whole_number("limit", values.LARGEST) == values.LARGEST
    with pytest.raises(InvalidValueError, match=r"from 0 to 2\*\*63 - 1"):
        values.whole_number("limit", values.LARGEST + 1)


@pytest.mark.parametrize("value", [0, 0.25, np.float32(0.25), np.int64(0), Fraction(1, 4)], ids=values.shown)
def test_a_number_of_any_library_comes_back_as_pythons_own(value):
    found = values.number("share", value, least=0, below=1)
    assert (found, type(found)) == (float(value), float)


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, float("nan"), float("inf"), -float("inf"), -0.1, 1, 10**400], ids=values.shown
)
def test_a_number_outside_its_limits_names_them(value):
    with pytest.raises(InvalidValueError, match=r"^share is .*; choose a finite number of at least 0 and below 1$"):
        values.number("share", value, least=0, below=1)


def test_open_and_closed_limits_differ():
    assert values.number("top_p", 1, above=0, most=1) == 1.0
    with pytest.raises(InvalidValueError, match="above 0 and of at most 1"):
        values.number("top_p", 0, above=0, most=1)


def test_a_span_lies_within_what_there_is():
    assert values.span(np.int64(3), np.uint32(5), limit=5, of="tokens") == (3, 5)
    assert values.span(5, 5, limit=5, of="tokens") == (5, 5)
    for start, stop in [(-1, 2), (3, 2), (0, 6), (0, 10**30)]:
        with pytest.raises(InvalidValueError, match=re.escape(f"span [{start}, {stop}) is not within the 5 tokens")):
            values.span(start, stop, limit=5, of="tokens")
    with pytest.raises(InvalidValueError, match="start < stop <= 5"):
        values.span(2, 2, limit=5, of="tokens", is_empty_fine=False)
    with pytest.raises(InvalidValueError, match=r"stop is 1\.5; choose a whole number from 0 to 5, the tokens"):
        values.span(0, 1.5, limit=5, of="tokens")


@pytest.mark.parametrize("value", [None, 5, b"text", ["text"], "half a \ud83d character"], ids=values.shown)
def test_text_is_a_str_that_can_be_written_down(value):
    assert values.text("role", "né \0") == "né \0"
    with pytest.raises(InvalidValueError, match=r"^role "):
        values.text("role", value)


@pytest.mark.parametrize(
    "value", [None, 5, "stop", b"stop", ["stop", ""], ["stop", None], ["\ud83d"]], ids=values.shown
)
def test_texts_are_a_list_of_them(value):
    assert values.texts("stop", iter(["a", "b"])) == ("a", "b")
    assert values.texts("stop", []) == ()
    with pytest.raises(InvalidValueError, match="stop"):
        values.texts("stop", value)


@pytest.mark.parametrize(
    "value", [None, 5, [], "team=infra", [("team", "infra")], {"team": 5}, {5: "infra"}], ids=values.shown
)
def test_labels_are_text_by_text(value):
    given = {"team": "infra"}
    found = values.text_labels(given)
    assert found == given
    assert found is not given
    with pytest.raises(InvalidValueError, match="label"):
        values.text_labels(value)


@pytest.mark.parametrize("value", [None, 0, 1, "yes", 1.0, [True]], ids=values.shown)
def test_a_flag_is_true_or_false(value):
    assert values.flag("create", np.True_) is True
    assert values.flag("create", False) is False
    with pytest.raises(InvalidValueError, match=r"^create is .*; choose True or False$"):
        values.flag("create", value)


@pytest.mark.parametrize("value", [None, 5, b"notes.mc", "", "a\0b", "\ud83d", ["notes.mc"]], ids=values.shown)
def test_a_path_is_a_str_or_a_path(value):
    assert values.path("path", "a/b") == values.path("path", Path("a/b")) == values.path("path", PurePosixPath("a/b"))
    assert values.path("path", "caf\udce9") == "caf\udce9"  # as the system gives a name that is not UTF-8
    with pytest.raises(InvalidValueError, match=r"^path "):
        values.path("path", value)


def test_a_choice_names_the_known_words():
    assert values.choice("kv", "exact", ("exact", "patch")) == "exact"
    for value, named in [("x", "'x'"), (None, "None"), ([], r"\[\]"), (np.array(["a", "b"]), "array")]:
        with pytest.raises(UnknownNameError, match=rf"^unknown kv {named}.*; known: exact, patch$"):
            values.choice("kv", value, ("patch", "exact"))


def test_a_part_keeps_to_its_protocol_and_is_an_object_not_its_class():
    class Blind:
        name = "blind"
        needs_attention = False

        def score(self, request):
            return request

    lens = Blind()
    assert values.part("lens", lens, Lens, ["auto"]) is lens
    for value in (None, 5, "auto", Blind):
        with pytest.raises(InvalidValueError, match=r"^lens is .*; give a name \(auto\) or your own Lens$"):
            values.part("lens", value, Lens, ["auto"])


@pytest.mark.parametrize("value", ["x" * 10**6, np.zeros((50, 50)), "a\nb", 10**5000], ids=values.shown)
def test_a_value_is_shown_on_one_short_line(value):
    line = values.shown(value)
    assert "\n" not in line
    assert 0 < len(line) <= 60


def test_too_large_a_number_is_told_the_upper_limit():
    with pytest.raises(InvalidValueError, match=r"choose a whole number from 0 to 2\*\*63 - 1$"):
        values.seed(2**70)


def test_a_file_in_the_way_of_a_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for place in (Path(), tmp_path, Path("new"), tmp_path / "new" / "below"):
        assert values.file_in_the_way(place) is None
    for place in (Path("file"), tmp_path / "file", Path("file/below"), tmp_path / "file" / "below" / "further"):
        assert values.file_in_the_way(place).samefile("file")
