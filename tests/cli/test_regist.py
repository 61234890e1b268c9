"""``megacontext regist``: what it says, and what it refuses in one line."""

from __future__ import annotations

import pytest

from megacontext.runtime import assembly
from megacontext.testing.model_folder import tiny_tokenizer, write_model_folder


@pytest.fixture(scope="module")
def other_base(tmp_path_factory):
    folder = write_model_folder(tmp_path_factory.mktemp("other"), "llama", dtype="float32", seed=3)
    tiny_tokenizer(270).save(str(folder / "tokenizer.json"))
    return folder


def test_a_memory_moves_and_quotes_the_same(megacontext, memory, other_base):
    before = megacontext("sources", memory, "--json").data
    quoted = megacontext("search", memory, "Kolibri", "--json").data
    done = megacontext("regist", memory, "--base", other_base, "--gister", "mean")
    assert (done.code, done.err) == (0, "")
    assert f"moved {memory} to {other_base}, mean gists, 1 per 8 tokens: 2 sources, " in done.out
    assert "of what it was before" in done.out
    after = megacontext("sources", memory, "--json").data
    assert [source["uri"] for source in after] == [source["uri"] for source in before]
    assert [source["labels"] for source in after] == [source["labels"] for source in before]
    [found] = list(megacontext("search", memory, "Kolibri", "--json").data)[:1]
    assert "The code for Kolibri" in found["text"]
    assert found["uri"] == quoted[0]["uri"]
    assert megacontext("check", memory, "--recompute-gists").code == 0
    assert megacontext("inspect", memory, "--json").data["stats"]["info"]["base_name"] == str(other_base)


def test_the_old_one_is_kept_until_it_is_dropped(megacontext, memory, other_base):
    kept = megacontext("regist", memory, "--base", other_base, "--gister", "mean", "--keep-old", "--json")
    assert kept.data["report"]["kept"] == [str(memory)]
    assert kept.data["report"]["num_made"] == 2
    assert "what it was before it was moved" in " ".join(megacontext("inspect", memory).out.split())
    again = megacontext("regist", memory, "--base", other_base)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "nothing to do" in again.err
    assert "--drop-old" in again.err
    dropped = megacontext("regist", memory, "--drop-old", "--json").data["report"]
    assert dropped["freed_bytes"] > 10_000
    assert dropped["kept"] == []
    assert "it was before" not in megacontext("inspect", memory).out
    assert "nothing to be removed" in megacontext("regist", memory, "--drop-old").out
    assert not (memory / "catalog.sqlite").exists()
    assert megacontext("check", memory).code == 0


def test_refusals_are_one_line_and_change_nothing(megacontext, memory, other_base, tmp_path, fingerprint):
    before = fingerprint(memory)
    with assembly.open(memory) as writer:
        writer.store_gists()  # and holds the lock
        for arguments, code, said in (
            ((memory, "--base", other_base, "--gister", "mean"), 1, "being written by process"),
            ((memory, "--base", other_base, "--gister", "mean", "--gist-width", 2), 1, "--restart"),
            ((memory, "--base", tmp_path / "none"), 1, "no such folder"),
            ((memory, "--base", other_base, "--gister", "none"), 2, "unknown gister"),
            ((memory,), 2, "nothing to do"),
            ((tmp_path / "nowhere", "--base", other_base), 1, "no memory"),
        ):
            done = megacontext("regist", *arguments)
            assert (done.code, done.err.count("\n")) == (code, 1), done.err
            assert said in done.err
    assert fingerprint(memory) == before
    assert megacontext("regist", memory, "--base", other_base, "--gister", "mean").code == 0


def test_an_interruption_says_how_to_go_on(megacontext, memory, other_base, monkeypatch):
    from megacontext.memory.regist import Regist

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Regist, "finish", interrupt)
        stopped = megacontext("regist", memory, "--base", other_base, "--gister", "mean")
    assert stopped.code == 130
    assert "run the same command again to go on" in stopped.err
    done = megacontext("regist", memory, "--base", other_base, "--gister", "mean", "--json")
    assert done.data["report"]["num_made"] == 0


def test_a_memory_whose_base_is_gone_says_so_and_moves(megacontext, tmp_path, other_base):
    model, moved = write_model_folder(tmp_path / "model", dtype="float32"), tmp_path / "elsewhere"
    note = tmp_path / "note.txt"
    note.write_text("The code for Kolibri is 48213. " * 9)
    assert megacontext("init", tmp_path / "m.mc", "--base", model, "--gister", "mean").code == 0
    assert megacontext("ingest", tmp_path / "m.mc", note).code == 0
    model.rename(moved)
    done = megacontext("ask", tmp_path / "m.mc", "What is the code?")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"was made with the base {model}, which cannot be had now" in done.err
    assert f"`megacontext regist {tmp_path / 'm.mc'} --base NEW`" in done.err
    assert megacontext("regist", tmp_path / "m.mc", "--base", other_base).code == 0
    assert "Kolibri is 48213" in megacontext("search", tmp_path / "m.mc", "Kolibri").out
