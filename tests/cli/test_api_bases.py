"""Command lines over a model behind an API: make, fill, ask, talk, and one line for whatever goes wrong."""

from __future__ import annotations

import io

import pytest

from megacontext.testing.openai_server import OpenAIServer

FACT = "The code for Kolibri is 48213."
QUESTION = "What is the code for Kolibri?"


@pytest.fixture
def server(reference):
    with OpenAIServer(reference, api_key="sk-right") as opened:
        yield opened


@pytest.fixture
def base(server, monkeypatch):
    monkeypatch.setenv("MEGACONTEXT_API_KEY", "sk-right")
    return f"openai:reference@{server.url}#api=completions"


def test_a_memory_is_made_filled_and_asked(megacontext, tmp_path, server, base):
    notes = tmp_path / "notes.txt"
    notes.write_text(f"{FACT}\n" + "The dog slept all day, and nobody came by. " * 120)
    made = megacontext("init", tmp_path / "m", "--base", base)
    assert made.code == 0
    assert "blocks of 16 tokens, sentences gists" in made.out
    assert megacontext("ingest", tmp_path / "m", notes).code == 0
    assert not server.asked("completions")  # filling needs no server
    asked = megacontext("ask", tmp_path / "m", QUESTION, "--budget", 700, "--max-new-tokens", 8, "--json").data
    assert "48213" in asked["answer"]
    assert any(FACT in source["quote"] for source in asked["sources"])
    went_on = megacontext("complete", tmp_path / "m", "--prompt", "The dog", "--max-new-tokens", 4, "--json").data
    assert went_on["continuation"]
    info = megacontext("inspect", tmp_path / "m", "--json").data
    assert base in str(info)
    assert "sentences" in str(info)


def test_a_chat_becomes_part_of_the_memory(megacontext, tmp_path, server, base, monkeypatch):
    megacontext("init", tmp_path / "m", "--base", base.partition("#")[0])
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{FACT}\n{QUESTION}\n"))
    talked = megacontext("chat", tmp_path / "m", "--max-new-tokens", 8)
    assert talked.code == 0
    assert len(server.asked("chat/completions")) == 2
    assert FACT in server.asked("chat/completions")[1].body["messages"][1]["content"]
    assert megacontext("sources", tmp_path / "m", "--json").data


def test_what_goes_wrong_is_one_line_without_the_key(megacontext, tmp_path, server, base, monkeypatch):
    notes = tmp_path / "notes.txt"
    notes.write_text(FACT)
    megacontext("init", tmp_path / "m", "--base", base)
    megacontext("ingest", tmp_path / "m", notes)
    monkeypatch.setenv("MEGACONTEXT_API_KEY", "sk-wrong")
    refused = megacontext("ask", tmp_path / "m", QUESTION)
    assert refused.code == 1
    (line,) = refused.err.splitlines()
    assert "refused the key from the environment variable MEGACONTEXT_API_KEY" in line
    assert "sk-wrong" not in line
    scored = megacontext("score", tmp_path / "m", "--text", notes)
    assert (scored.code, len(scored.err.splitlines())) == (1, 1)
    assert "shows no logits" in scored.err
    for wrong in ("openai:m@http://me:pw@h/v1", "openai:m", "vllm:nothing-here@http://h/v1"):
        made = megacontext("init", tmp_path / "n", "--base", wrong)
        assert made.code in (1, 2)
        assert len(made.err.splitlines()) == 1
        assert "pw@" not in made.err
    assert not (tmp_path / "n").exists()
