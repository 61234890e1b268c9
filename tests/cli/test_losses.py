"""A catalog behind its journal: every verb says so, and nothing is exported that lacks what was added."""

from __future__ import annotations

import shutil

import pytest

from megacontext.testing.model_folder import write_model_folder

LOST = "of its last commits, catalog.journal still has them; run 'megacontext check --repair'"


@pytest.fixture
def behind(megacontext, memory, tmp_path):
    """A memory whose last commit only the journal knows."""
    before = tmp_path / "before.sqlite"
    shutil.copy(memory / "catalog.sqlite", before)
    note = tmp_path / "late.txt"
    note.write_text("The code for Bob Brown is 77123.")
    assert megacontext("ingest", memory, note).code == 0
    for file in memory.glob("catalog.sqlite*"):
        file.unlink()
    shutil.copy(before, memory / "catalog.sqlite")
    return memory


@pytest.mark.parametrize("verb", [("search", "Bob Brown"), ("sources",), ("inspect",), ("sources", "--json")])
def test_readers_say_what_is_lost(megacontext, behind, verb):
    done = megacontext(verb[0], behind, *verb[1:])
    assert done.code == 0
    assert done.err.count(LOST) == 1
    assert done.err.count("\n") == 1
    assert "Bob" not in done.out


def test_a_copy_would_lose_it_for_good_and_is_refused(megacontext, behind, tmp_path):
    done = megacontext("export", behind, tmp_path / "copy.tar")
    assert done.code == 1
    assert LOST in done.err.splitlines()[-1]
    assert not list(tmp_path.glob("copy*"))
    assert megacontext("check", behind, "--repair").code == 0
    assert megacontext("export", behind, tmp_path / "copy.tar").code == 0
    assert "Bob Brown" in megacontext("search", behind, "Bob Brown").out


def test_who_looks_for_losses_finds_them_in_the_list_alone(megacontext, behind):
    done = megacontext("check", behind)
    assert done.code == 1
    assert done.err == ""
    assert "are lost" in done.out


def test_the_log_stays_with_debug(megacontext, behind):
    done = megacontext("--debug", "sources", behind)
    assert LOST in done.err
    assert not done.err.startswith("megacontext:")


def test_a_chat_template_that_does_not_serve_is_told_once(megacontext, tmp_path):
    model = write_model_folder(tmp_path / "model", dtype="float32")
    (model / "chat_template.jinja").write_text("{% for m in %}")
    done = megacontext("init", tmp_path / "m.mc", "--base", model, "--gister", "mean")
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert "its chat template cannot be read" in done.err
    assert "it is asked as a plain model, unless megacontext.json says how" in done.err
