from __future__ import annotations

import pytest

from megacontext.errors import InvalidValueError
from megacontext.runtime.stopping import StopTexts


def run(stops, pieces):
    watch = StopTexts(stops)
    shown = []
    for piece in pieces:
        shown.append(watch.push(piece))
        if watch.done:
            return "".join(shown), True
    return "".join(shown) + watch.flush(), False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["\n"], [" 48", "213", ".\nNext"], (" 48213.", True)),
        (["\n"], ["\n\n 48", "\n"], ("\n\n 48", True)),
        (["END"], ["a E", "N", "D b"], ("a ", True)),
        (["END"], ["a E", "N", "S b"], ("a ENS b", False)),
        (["END"], ["a EN"], ("a EN", False)),
        ([], ["a\n", "b"], ("a\nb", False)),
        (["b", "a"], ["xab"], ("x", True)),
    ],
)
def test_text_ends_before_the_first_stop_and_nothing_of_it_shows(stops, pieces, expected):
    assert run(stops, pieces) == expected


@pytest.mark.parametrize("stops", ["\n", [""], [None]])
def test_stops_are_a_list_of_texts(stops):
    with pytest.raises(InvalidValueError):
        StopTexts(stops)
