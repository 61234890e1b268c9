"""What was ingested is shown, never obeyed: no verb sends a control character of a file to the terminal."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata

import pytest

from megacontext.cli.visible import visible_json, visible_line, visible_text

TEXT = "The kolibri \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m \x7f\x08 is \u202eblue\r\nand 42.\n"
NAME = "two\nlines \x1b[31m \x9b.txt"
LABEL = "mood=bad\x1b[5m"


@pytest.fixture
def hostile(tmp_path, base_folder, megacontext):
    """A memory of one file whose name, text, label, author and role are all out for the terminal."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / NAME).write_text(TEXT, newline="")
    (folder / f"empty {NAME}").write_text("")
    megacontext("init", tmp_path / "memory", "--base", base_folder, "--block-tokens", "8")
    options = ("--label", LABEL, "--author", "A\x1b[7m", "--role", "r\x07", "--licence", "L\x9b1m")
    assert_tame(megacontext("ingest", tmp_path / "memory", folder, *options))
    return tmp_path / "memory"


def assert_tame(result, code=0):
    assert result.code == code, result.err
    for output in (result.out, result.err):
        commands = {c for c in output if unicodedata.category(c) in {"Cc", "Cf", "Cs"}} - {"\n"}
        assert not commands, (commands, output)


def test_no_verb_sends_control_characters_of_a_memory(megacontext, hostile):
    for arguments in (
        ["sources", hostile],
        ["search", hostile, "kolibri"],
        ["provenance", hostile, "0:8"],
        ["ask", hostile, "What is the kolibri?", "--max-new-tokens", "2"],
        ["focus", hostile, "--show", "--query", "kolibri \x1b[31m"],
        ["inspect", hostile],
        ["complete", hostile, "--prompt", "\x1b[31mThe", "--max-new-tokens", "1"],
    ):
        for json_too in ([], ["--json"]):
            assert_tame(megacontext(*arguments, *json_too))


def test_errors_name_hostile_arguments_tamely(megacontext, hostile):
    evil = "no\x1b[31m\x9b\u202e"
    assert_tame(megacontext("sources", evil), 1)
    assert_tame(megacontext("ingest", hostile, evil), 1)
    assert_tame(megacontext("erase", hostile, evil, "--yes"), 2)
    assert_tame(megacontext("ask", hostile, "why?", "--lens", evil), 2)
    assert_tame(megacontext("score", hostile, "--text", evil), 1)
    assert_tame(megacontext("sources", hostile, evil), 2)


def test_damage_is_named_tamely(megacontext, hostile, tmp_path):
    evil = tmp_path / "evil\x1b[31m"
    shutil.copytree(hostile, evil)
    next(evil.glob("raw/*/*.zst")).write_bytes(b"\x1b[31m")
    assert_tame(megacontext("check", evil), 1)
    assert_tame(megacontext("check", evil, "--repair"))


def test_json_keeps_every_character(megacontext, hostile):
    quoted = megacontext("provenance", hostile, "0:9999999", "--json")
    assert quoted.code == 2  # outside: the memory is small
    stop = megacontext("inspect", hostile, "--json").data["stats"]["num_tokens"]
    assert "".join(q["text"] for q in megacontext("provenance", hostile, f"0:{stop}", "--json").data) == TEXT
    (source,) = megacontext("sources", hostile, "--json").data
    assert source["labels"] == {"mood": "bad\x1b[5m"}


def test_an_answer_that_quotes_control_characters_is_tame(capsys):
    from megacontext.cli.answering import stream_answer
    from megacontext.runtime.events import DoneEvent, TokenEvent

    events = [
        TokenEvent(token_id=1, text="a\x1b"),
        TokenEvent(token_id=2, text="[31mb\n"),
        DoneEvent(reason="length", text="a\x1b[31mb\n", token_ids=(1, 2)),
    ]
    answer = stream_answer(iter(events), show=True, strip=False)
    assert capsys.readouterr().out == "a\\x1b[31mb\n\n"
    assert answer.text == "a\x1b[31mb\n"


def test_a_languages_joiners_stay():
    assert visible_text("می‌خواهم 👩‍💻\tx\n") == "می‌خواهم 👩‍💻\tx\n"


def test_bytes_that_are_no_text_are_named_as_bytes():
    assert visible_line(os.fsdecode(b"caf\xe9")) == r"caf\xe9"


def test_json_with_escapes_says_the_same():
    data = {"text": "".join(map(chr, [*range(0xA0), 0x2028, 0x202E, 0x2069]))}
    document = visible_json(json.dumps(data, ensure_ascii=False))
    assert json.loads(document) == data
    assert document.isprintable()
