"""Every verb once on a real memory: what it prints for people, and what as JSON."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from megacontext.errors import StorageFullError
from megacontext.runtime import assembly

FACT = "The code for Kolibri is 48213."


def test_init_then_ingest_counts_what_it_did(megacontext, tmp_path, base_folder, documents):
    memory = tmp_path / "new"
    assert "extractive gists" in megacontext("init", memory, "--base", base_folder).out
    result = megacontext("ingest", memory, documents)
    assert result.code == 0
    assert "added 2 sources" in result.out
    assert "1 binary" in result.out
    assert "2 unchanged" in megacontext("ingest", memory, documents).out


def test_init_as_json_names_what_the_memory_is_made_of(megacontext, tmp_path, base_folder):
    data = megacontext(
        "init", tmp_path / "new", "--base", base_folder, "--gister", "mean", "--block-tokens", 16, "--json"
    ).data
    assert (data["info"]["gister_name"], data["info"]["block_tokens"]) == ("mean", 16)


def test_init_says_in_one_line_that_gists_were_never_taught_for_such_blocks(megacontext, tmp_path):
    usual = megacontext("init", tmp_path / "usual", "--base", "reference-core")
    assert (usual.code, usual.err) == (0, "")
    new = megacontext("init", tmp_path / "new", "--base", "reference-core", "--block-tokens", 64, "--json")
    assert new.data["info"]["block_tokens"] == 64
    (line,) = new.err.splitlines()
    assert "never taught for block_tokens 64 with gist_width 1" in line
    assert "32 (gist_width 1, 2, 4, 8, 16)" in line
    mean = megacontext("init", tmp_path / "mean", "--base", "reference-core", "--block-tokens", 64, "--gister", "mean")
    assert (mean.code, mean.err) == (0, "")


def test_a_changed_source_becomes_a_new_version(megacontext, memory, documents, tmp_path):
    copy = tmp_path / "facts.md"
    shutil.copy(documents / "facts.md", copy)
    megacontext("ingest", memory, copy)
    copy.write_text("The code for Kolibri is 99999.")
    assert megacontext("ingest", memory, copy, "--json").data["num_sources"] == 1
    versions = [s["version"] for s in megacontext("sources", memory, "--json").data if s["uri"].endswith("/facts.md")]
    assert sorted(versions) == [1, 1, 2]


def test_ingest_reads_standard_input_with_name_role_and_labels(megacontext, memory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße from a pipe.".encode())))
    arguments = ("--name", "note", "--role", "user", "--label", "a=1", "--label", "b=x=y", "--json")
    assert megacontext("ingest", memory, "-", *arguments).data["num_sources"] == 1
    newest = megacontext("sources", memory, "--json").data[-1]
    assert (newest["uri"], newest["role"], newest["labels"]) == ("note", "user", {"a": "1", "b": "x=y"})
    span = f"{newest['token_start']}:{newest['token_stop']}"
    assert megacontext("provenance", memory, span, "--json").data[0]["text"] == "Grüße from a pipe."


def test_sources_lists_labels_and_spans(megacontext, memory):
    out = megacontext("sources", memory).out
    assert "team=infra" in out
    assert "facts.md" in out
    assert {source["kind"] for source in megacontext("sources", memory, "--json").data} == {"markdown", "text"}


def test_search_finds_the_passage_and_provenance_quotes_it(megacontext, memory):
    best = megacontext("search", memory, "Kolibri code", "--json").data[0]
    assert "Kolibri" in best["text"]
    assert "facts.md" in megacontext("search", memory, "Kolibri", "--limit", 1).out
    quoted = megacontext("provenance", memory, f"{best['token_start']}:{best['token_stop']}")
    assert "Kolibri" in quoted.out
    assert "facts.md:" in quoted.out
    assert megacontext("search", memory, "zyzzyva").out == "nothing matches\n"


def test_inspect_counts(megacontext, memory):
    data = megacontext("inspect", memory, "--json").data
    assert data["stats"]["num_sources"] == 2
    assert data["stats"]["num_nodes"][1] == data["stats"]["num_tokens"] // 8
    assert f"{data['stats']['num_tokens']:,}" in megacontext("inspect", memory).out


def test_inspect_says_how_a_memory_is_at_first_sight(megacontext, memory):
    assert megacontext("inspect", memory, "--json").data["stats"]["health"] == []
    assert "good at first sight" in megacontext("inspect", memory).out
    with assembly.open(memory) as opened, opened._parts.catalog.write() as writer:
        writer.drop_index()
    (line,) = megacontext("inspect", memory, "--json").data["stats"]["health"]
    assert line.startswith("the word index is not whole")
    out = megacontext("inspect", memory).out
    assert "an erasure was interrupted" in " ".join(out.split())
    assert "verifies every byte" in out


def test_inspect_says_that_what_is_not_in_the_index_is_found_too(megacontext, tmp_path, base_folder, documents):
    megacontext("init", tmp_path / "small", "--base", base_folder, "--block-tokens", "128")
    assert "nothing to find yet" in megacontext("inspect", tmp_path / "small").out
    megacontext("ingest", tmp_path / "small", documents / "facts.md")
    assert "facts.md" in megacontext("search", tmp_path / "small", "Kolibri").out
    stats = megacontext("inspect", tmp_path / "small", "--json").data["stats"]
    assert stats["indexed_tokens"] == 0
    out = megacontext("inspect", tmp_path / "small").out
    assert f"finds all {stats['num_tokens']}: the newest {stats['num_tokens']} by reading them" in out
    assert "0 in sealed arrays" in out


def test_inspect_says_what_the_index_finds(megacontext, memory):
    stats = megacontext("inspect", memory, "--json").data["stats"]
    newest = stats["num_tokens"] - stats["indexed_tokens"]
    out = megacontext("inspect", memory).out
    assert f"{stats['indexed_tokens']:,} by their index, the newest {newest} by reading them" in out


def test_check_is_good_then_finds_a_flipped_byte_and_repairs_it(megacontext, memory):
    assert megacontext("check", memory).out.startswith("all good")
    blob = next(memory.glob("raw/*/*.zst"))
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.write_bytes(content)
    found = megacontext("check", memory, "--json")
    assert found.code == 1
    assert blob.name in found.data["damages"][0]["object_name"]
    assert blob.name in megacontext("check", memory).out


def test_ask_prints_an_answer_and_the_sources_that_it_rests_on(megacontext, memory):
    result = megacontext("ask", memory, "What is the code for Kolibri?", "--max-new-tokens", 4, "--budget", 512)
    assert result.code == 0
    assert "facts.md" in result.out
    assert FACT[:20] in result.out
    data = megacontext("ask", memory, "What is the code for Kolibri?", "--max-new-tokens", 4, "--json").data
    assert isinstance(data["answer"], str)
    assert any(source["uri"].endswith("facts.md") for source in data["sources"])


def no_room(*given):
    raise StorageFullError("no space left")


def test_a_question_stores_the_gists_that_an_interrupted_ingest_left(megacontext, memory, tmp_path, monkeypatch):
    with monkeypatch.context() as interrupted:
        interrupted.setattr("megacontext.memory.gists_ahead.GistsAhead.allow", lambda self, num_shards: None)
        interrupted.setattr("megacontext.memory.sealing.GistKeeper.keep_all", lambda self, *given: 1 / 0)
        (tmp_path / "long.txt").write_text("".join(f"{number * 7919} " for number in range(30_000)))
        assert megacontext("ingest", memory, tmp_path / "long.txt").code == 1
    with assembly.open(memory, read_only=True) as opened:
        assert opened.is_missing_gists
    question = ("ask", memory, "What is the code for Kolibri?", "--max-new-tokens", 2)
    with monkeypatch.context() as full:  # it can be answered all the same
        full.setattr("megacontext.memory.sealing.GistKeeper.keep_all", no_room)
        assert megacontext(*question).code == 0
    stored = megacontext(*question)
    assert (stored.code, stored.err.count("storing the gists")) == (0, 1)
    assert "storing" not in megacontext(*question).err
    with assembly.open(memory, read_only=True) as opened:
        assert not opened.is_missing_gists


def test_complete_prints_the_prompt_and_its_continuation(megacontext, memory):
    result = megacontext("complete", memory, "--prompt", "Line 7", "--max-new-tokens", 3)
    assert result.out.startswith("Line 7")
    data = megacontext("complete", memory, "--prompt", "Line 7", "--max-new-tokens", 3, "--json").data
    assert result.out == f"Line 7{data['continuation']}\n"


def test_score_compares_methods_without_full_context_where_it_does_not_fit(megacontext, memory, documents):
    data = megacontext("score", memory, "--text", documents / "facts.md", "--json").data
    assert {method["name"] for method in data["methods"]} == {"megacontext", "recency"}
    assert all(method["nats_per_token"] > 0 for method in data["methods"])
    assert "does not fit" in megacontext("score", memory, "--text", documents / "facts.md").out


def test_score_includes_full_context_where_it_fits(megacontext, tmp_path, base_folder, documents):
    memory = tmp_path / "small"
    megacontext("init", memory, "--base", base_folder)
    megacontext("ingest", memory, documents / "facts.md")
    data = megacontext("score", memory, "--text", documents / "facts.md", "--json").data
    scores = {method["name"]: method["nats_per_token"] for method in data["methods"]}
    assert scores["full"] == pytest.approx(scores["recency"], abs=1e-4)


def test_nothing_goes_on_from_an_empty_memory(megacontext, tmp_path, base_folder, documents):
    megacontext("init", tmp_path / "empty", "--base", base_folder)
    done = megacontext("score", tmp_path / "empty", "--text", documents / "facts.md")
    assert done.code != 0
    assert "has no tokens, so nothing can go on from it; ingest something first" in done.err


def test_an_archive_is_not_unpacked_to_a_url(megacontext, memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert megacontext("export", memory, tmp_path / "m.tar").code == 0
    done = megacontext("import", tmp_path / "m.tar", "s3://bucket/m")
    assert done.code == 2
    assert "is not a local folder" in done.err
    assert not (tmp_path / "s3:").exists()


def test_removing_what_a_memory_was_takes_no_options_of_a_move(megacontext, memory):
    for option in ("--restart", "--lossy-tokens"):
        done = megacontext("regist", memory, "--drop-old", option)
        assert done.code == 2
        assert f"{option} is of a move" in done.err


def test_focus_draws_the_cut_and_opens_what_a_question_needs(megacontext, memory):
    fact = megacontext("search", memory, "Kolibri", "--json").data[0]
    closed = megacontext("focus", memory, "--budget", 300, "--json").data
    opened = megacontext("focus", memory, "--budget", 300, "--query", "Kolibri", "--json").data
    position = fact["token_start"] + 12

    def level_at(data):
        return next(entry["level"] for entry in data["entries"] if entry["start"] <= position < entry["stop"])

    assert level_at(closed) > 0
    assert level_at(opened) == 0
    assert opened["cost"] <= 300
    picture = megacontext("focus", memory, "--budget", 300, "--query", "Kolibri").out
    assert "history" in picture
    assert "█" in picture


def test_focus_pins_and_reveals_in_the_window_that_it_shows(megacontext, memory):
    data = megacontext("focus", memory, "--pin", "800:816", "--reveal", "1,600:1,608", "--json").data
    raw = {(entry["start"], entry["pinned"]) for entry in data["entries"] if entry["level"] == 0}
    assert {(800, True), (808, True), (1600, False)} <= raw
    undone = megacontext("focus", memory, "--pin", "800:816", "--unpin", "800:816", "--json").data
    assert all(not entry["pinned"] for entry in undone["entries"] if entry["start"] in {800, 808})
    out = megacontext("focus", memory, "--pin", "800:816", "--show").out
    why = {line.split()[2]: line.split()[-1] for line in out.splitlines() if line.startswith("█ 0")}
    assert (why["0:8"], why["800:808"], why["808:816"]) == ("sink", "pinned", "pinned")
    num_tokens = megacontext("inspect", memory, "--json").data["stats"]["num_tokens"]
    newest = [reason for span, reason in why.items() if int(span.partition(":")[2].replace(",", "")) > num_tokens - 64]
    assert newest == ["recent"] * len(newest) != []
    assert "the first 4 (sink)" in out


def test_chat_turns_become_part_of_the_memory(megacontext, memory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the code for Kolibri?\nAnd the weather?\n"))
    assert megacontext("chat", memory, "--max-new-tokens", 3, "--budget", 512).code == 0
    turns = [source for source in megacontext("sources", memory, "--json").data if source["uri"].startswith("chat/")]
    assert [turn["role"] for turn in turns if turn["role"] == "user"] == ["user", "user"]
    span = f"{turns[0]['token_start']}:{turns[0]['token_stop']}"
    assert "What is the code" in megacontext("provenance", memory, span).out


def test_erase_forgets_a_source(megacontext, memory, documents):
    assert megacontext("erase", memory, documents / "facts.md", "--yes", "--json").data["num_sources"] == 1
    assert megacontext("search", memory, "Kolibri").out == "nothing matches\n"
    assert "erased/" in megacontext("sources", memory).out
    assert megacontext("check", memory, "--recompute-gists").code == 0


NAMES = [b"plain.txt", b"a b%20c.txt", b"caf\xe9.txt", b"two\nlines \x1b[31m.txt", "señor \u202e.txt".encode()]


@pytest.fixture
def oddly_named(megacontext, tmp_path, base_folder, monkeypatch):
    """A memory of files with odd names, some of them no UTF-8, and of a link; made from within their folder."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in NAMES:
        (folder / os.fsdecode(name)).write_text(f"The file {name!r} stands here.")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "inner.txt").write_text("Behind a link.")
    (folder / "link").symlink_to(tmp_path / "linked")
    monkeypatch.chdir(folder)
    megacontext("init", tmp_path / "odd.mc", "--base", base_folder, "--gister", "mean", "--block-tokens", "8")
    assert megacontext("ingest", tmp_path / "odd.mc", ".", "link/inner.txt").code == 0
    return tmp_path / "odd.mc"


def test_whatever_sources_shows_can_be_erased_and_quoted(megacontext, oddly_named, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    header, *lines = megacontext("sources", oddly_named).out.splitlines()
    assert header.split()[:3] == ["source", "id", "version"]
    assert len(lines) == len(NAMES) + 1
    for line in lines:
        name, source_id, _, _, tokens, *_ = re.split(r"\s{2,}", line.strip())
        assert Path(name).name.split(".")[0][:3] in megacontext("provenance", oddly_named, tokens).out
        erased = megacontext("erase", oddly_named, name, "--yes")
        assert erased.code == 0, erased.err
        assert f"erased {name}: 1 version" in erased.out
        listed = megacontext("sources", oddly_named, "--json").data
        assert [s["uri"] for s in listed if s["source_id"] == int(source_id)] == [f"erased/{source_id}"]


@pytest.mark.parametrize(
    "written", [os.fsdecode(b"caf\xe9.txt"), "./plain.txt", "../files/plain.txt", "link/inner.txt"]
)
def test_a_source_is_erased_by_its_path(megacontext, oddly_named, written):
    assert megacontext("erase", oddly_named, written, "--yes", "--json").data["num_sources"] == 1


def test_a_source_is_erased_by_its_id(megacontext, oddly_named):
    source = megacontext("sources", oddly_named, "--json").data[2]
    assert megacontext("erase", oddly_named, source["source_id"], "--yes").code == 0
    left = [listed["uri"] for listed in megacontext("sources", oddly_named, "--json").data]
    assert source["uri"] not in left
    assert len([uri for uri in left if uri.startswith("erased/")]) == 1


def test_a_name_of_two_sources_erases_neither(megacontext, oddly_named, monkeypatch):
    for name in ("plain.txt", "1"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Said under the name of another.")))
        megacontext("ingest", oddly_named, "-", "--name", name)
        before = megacontext("sources", oddly_named, "--json").data
        result = megacontext("erase", oddly_named, name, "--yes")
        assert result.code == 2
        assert "may be" in result.err
        assert f"(id {before[-1]['source_id']})" in result.err
        assert megacontext("sources", oddly_named, "--json").data == before
        assert megacontext("erase", oddly_named, before[-1]["source_id"], "--yes").code == 0


def test_export_and_import_give_the_same_memory(megacontext, memory, tmp_path, fingerprint):
    archive, copy = tmp_path / "memory.tar", tmp_path / "copy"
    assert megacontext("export", memory, archive).code == 0
    assert megacontext("import", archive, copy, "--json").data["num_sources"] == 2
    assert fingerprint(copy) == fingerprint(memory)
    assert megacontext("check", copy).code == 0


def test_version_and_help(megacontext):
    assert megacontext("--version").out.startswith("megacontext 0.")
    assert megacontext("--help").code == 0
    bare = megacontext()
    assert bare.code == 2
    assert "Usage" in bare.out


def test_json_output_is_nothing_but_json(megacontext, memory):
    for verb in (["sources"], ["search", "bread"], ["inspect"], ["check"], ["focus"], ["provenance", "0:9"]):
        result = megacontext(verb[0], memory, *verb[1:], "--json")
        assert result.err == ""
        json.loads(result.out)
