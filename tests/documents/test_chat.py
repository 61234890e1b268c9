"""Chat logs: JSON lines and arrays, one section per message, the broken line named."""

from __future__ import annotations

import json

import pytest

from megacontext.errors import EmptySourceError, NotTextError

MESSAGES = [
    {"role": "user", "content": "Hi, ünïcode\nin two lines", "name": "Ann", "time": 12.5},
    {"role": "assistant", "content": [{"type": "text", "text": "Hello"}, {"type": "image"}, "there"]},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "user", "content": "Bye", "timestamp": "2026-01-31T12:00:00Z"},
]
TEXT = "Ann: Hi, ünïcode\nin two lines\n\nassistant: Hello\nthere\n\nuser: Bye\n\n"


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.json"])
def test_lines_and_arrays(parsed, name):
    content = json.dumps(MESSAGES) if name.endswith(".json") else "\n".join(map(json.dumps, MESSAGES)) + "\n\n"
    document = parsed(name, content)
    assert document.kind == "chat"
    assert document.text == TEXT
    assert [(s.role, s.title, s.time) for s in document.sections] == [
        ("user", "Ann", 12.5),
        ("assistant", "", 0.0),
        ("user", "", 1769860800.0),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"role": "user", "content"', "line 3 is no JSON"),
        ("nonsense", "line 3 is no JSON"),
        ('{"role": "user"}', "line 3 is no message"),
        ("[1]", "line 3 is no message"),
        ('{"role": 7, "content": "x"}', "line 3 is no message"),
        ('{"role": "user", "content": 7}', "line 3 has content of type int"),
        ('{"role": "user", "content": [7]}', "line 3 has content of type list"),
        ('{"role": "user", "content": "x", "time": "noon"}', "line 3 has the time 'noon'"),
        ('{"role": "user", "content": "x", "name": 7}', "line 3 has the name 7"),
        ('{"role": "user", "content": "x", "time": NaN}', "line 3 has the time nan; give seconds"),
        ('{"role": "user", "content": "x", "time": 1' + "0" * 400 + "}", "line 3 has the time 10000"),
        ('{"role": "user", "content": ' + "[" * 100_000, "line 3 is no JSON"),
    ],
)
def test_a_broken_line_is_named(parsed, line, message):
    good = json.dumps(MESSAGES[0])
    with pytest.raises(NotTextError, match=message) as caught:
        parsed("log.jsonl", f"{good}\n\n{line}\n{good}\n")
    assert ";" in str(caught.value)


def test_a_broken_first_line_is_still_a_chat(parsed):
    with pytest.raises(NotTextError, match="line 1 is no JSON"):
        parsed("log.jsonl", '{"role": "user", "content": "cut\n' + json.dumps(MESSAGES[0]))


def test_a_broken_item_of_an_array_is_named(parsed):
    with pytest.raises(NotTextError, match="message 2 is no message"):
        parsed("log.json", json.dumps([MESSAGES[0], {"role": "user"}]))


def test_other_json_is_kept_as_it_is(parsed):
    for name, content, kind in [
        ("data.jsonl", '{"a": 1}\n{"a": 2}\n', "text"),
        ("data.json", '[{"a": 1}]', "code"),
        ("data.json", '{"role": "x"}', "code"),
        ("data.json", "[broken", "code"),
    ]:
        document = parsed(name, content)
        assert (document.kind, document.text) == (kind, content)


def test_brackets_in_brackets_are_kept_as_they_are(parsed):
    """Deeper than a parser of JSON goes: test files of such parsers, say."""
    for deep in ("[" * 100_000, '{"a": ' + "[" * 100_000):
        assert parsed("deep.json", deep).text == deep


def test_lone_surrogates_of_escapes_are_replaced(parsed):
    assert parsed("log.jsonl", r'{"role": "user", "content": "a\ud800b \ud83d\ude00"}').text == "user: a\ufffdb 😀\n\n"


def test_a_log_without_words(parsed):
    with pytest.raises(EmptySourceError):
        parsed("log.jsonl", '{"role": "assistant", "content": null}')
