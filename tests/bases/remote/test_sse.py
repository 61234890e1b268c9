"""Events however their bytes are cut, against the whole; line ends of every kind; what never ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.bases.remote import sse
from megacontext.bases.remote.sse import event_data
from megacontext.errors import ServerError

STREAM = 'data: {"a": "x\u2028\u0085y"}\n\n: a comment\nevent: thing\ndata:one\ndata: two\n\nid: 7\n\ndata: [DONE]\n\n'
EXPECTED = ['{"a": "x\u2028\u0085y"}', "one\ntwo", "[DONE]"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@given(cuts=st.lists(st.integers(0, 90), max_size=12))
def test_any_cutting_gives_the_same_events(line_end, cuts):
    data = STREAM.replace("\n", line_end).encode()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in itertools.pairwise(borders)]
    assert list(event_data(pieces)) == EXPECTED


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_byte_by_byte(line_end):
    data = STREAM.replace("\n", line_end).encode()
    assert list(event_data(data[at : at + 1] for at in range(len(data)))) == EXPECTED


def test_the_last_event_needs_no_empty_line():
    assert list(event_data([b"\xef\xbb\xbfdata: a\n\ndata: b"])) == ["a", "b"]
    assert list(event_data([b"data: a\r"])) == ["a"]


def test_a_failure_in_the_field_of_llama_cpp_is_an_event():
    assert list(event_data([b'error: {"code": 500}\n\n'])) == ['{"code": 500}']


def test_bytes_that_are_no_text_do_not_stop_the_stream():
    assert list(event_data([b"data: a\xff\n\n"])) == ["a\ufffd"]


@pytest.mark.parametrize("piece", [b"x" * 8, b"data: xx\n"])
def test_an_event_without_an_end_is_an_error(piece, monkeypatch):
    monkeypatch.setattr(sse, "MOST_EVENT_BYTES", 64)
    with pytest.raises(ServerError, match="one event of more than"):
        list(event_data(piece for _ in range(1000)))
