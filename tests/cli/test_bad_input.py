"""What goes wrong ends in one line that says what to do, the right exit code, and a memory as it was."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.testing.model_folder import write_model_folder


def assert_one_line(result, code, *words):
    assert result.code == code, result.err
    assert result.err.count("\n") == 1
    assert result.err.startswith("megacontext: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


def test_a_memory_that_is_not_there(megacontext, tmp_path):
    for arguments in (["sources"], ["ask", "why?"], ["ingest", "x"], ["check"], ["inspect"], ["focus"]):
        assert_one_line(megacontext(arguments[0], tmp_path / "no", *arguments[1:]), 1, "no memory", "init")
    assert not (tmp_path / "no").exists()


def test_a_memory_that_is_there_already(megacontext, memory, base_folder, fingerprint):
    before = fingerprint(memory)
    assert_one_line(megacontext("init", memory, "--base", base_folder), 1, "already")
    assert fingerprint(memory) == before


def test_a_folder_that_is_something_else(megacontext, documents, base_folder):
    assert_one_line(megacontext("init", documents, "--base", base_folder), 1, "no memory")
    assert_one_line(megacontext("sources", documents), 1, "no memory")
    assert_one_line(megacontext("sources", documents / "facts.md"), 1, "no memory")


def advised(result):
    """The command line that an error advises."""
    return shlex.split(result.err.rpartition("`megacontext ")[2].rpartition("`")[0])


@pytest.mark.parametrize(
    "verb",
    [
        *(["sources"], ["inspect"], ["check"], ["check", "--repair"], ["focus"], ["search", "x"], ["ask", "why?"]),
        *(["complete"], ["chat"], ["provenance", "0:1"], ["erase", "x", "--yes"], ["export", "OUT"], ["ingest", "x"]),
        ["score", "--text", "FILE"],
    ],
)
def test_the_advice_where_there_is_no_memory_works(megacontext, tmp_path, base_folder, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    Path("x").write_text("text")
    for name in ("some folder", "file.txt", "new", "empty"):
        if name in {"some folder", "empty"}:
            Path(name).mkdir()
        if name == "some folder":
            Path(name, "letter.txt").write_text("Dear reader,")
        if name == "file.txt":
            Path(name).write_text("text")
        arguments = [{"OUT": "out.tar", "FILE": "x"}.get(argument, argument) for argument in verb[1:]]
        result = megacontext(verb[0], name, *arguments)
        assert_one_line(result, 1, "no memory", "megacontext init")
        command = advised(result)
        assert megacontext(*command, "--base", base_folder).code == 0
        assert megacontext("sources", command[1]).code == 0


def test_the_advice_from_within_a_folder_works(megacontext, tmp_path, base_folder, monkeypatch):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear reader,")
    monkeypatch.chdir(folder)
    for taken in (".", "..", str(folder), "."):
        assert megacontext(*advised(megacontext("sources", taken)), "--base", base_folder).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base", "nonsense"], ["reference"]),
        (["--gister", "poet"], ["extractive", "mean"]),
        (["--block-tokens", "7"], ["8", "128"]),
        (["--gist-width", "0"], ["gist_width"]),
        (["--block-tokens", "many"], ["--block-tokens"]),
    ],
)
def test_init_with_impossible_options_makes_nothing(megacontext, tmp_path, base_folder, options, words):
    base = [] if "--base" in options else ["--base", base_folder]
    assert_one_line(megacontext("init", tmp_path / "new", *base, *options), 2, *words)
    assert not (tmp_path / "new").exists()


def test_object_stores_are_named_as_not_there_yet(megacontext):
    assert_one_line(megacontext("init", "s3://bucket/prefix"), 2, "local folder", "export")


@pytest.mark.parametrize("verb", ["ask", "focus", "complete"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lens", "telescope"], ["auto", "lexical"]),
        (["--allocator", "thrifty"], ["greedy", "optimal"]),
        (["--budget", "9"], ["at least"]),
        (["--budget", "0"], ["1024"]),
        (["--budget", "1000000"], ["4096"]),
    ],
)
def test_unknown_names_and_impossible_budgets(megacontext, filled_memory, verb, options, words):
    extra = {"ask": ["why?"], "complete": ["--prompt", "x"], "focus": []}[verb]
    assert_one_line(megacontext(verb, filled_memory, *extra, *options), 2, *words)


@pytest.mark.parametrize("verb", [["ask", "why?"], ["focus"], ["complete"], ["chat"], ["score", "--text", "-"]])
def test_the_oracle_serves_no_question(megacontext, filled_memory, verb):
    words = ["attention, auto, lensnet, lexical, recency", "demo"]
    assert_one_line(megacontext(verb[0], filled_memory, *verb[1:], "--lens", "oracle"), 2, *words)
    result = megacontext(verb[0], filled_memory, *verb[1:], "--lens", "psychic")
    assert_one_line(result, 2, "psychic", "attention, auto, lensnet, lexical, recency")


def test_an_archive_is_a_file(megacontext, filled_memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(megacontext("export", filled_memory, "-"), 2, "- is no file", "name one")
    assert_one_line(megacontext("import", "-", "copy"), 2, "- is no file")
    (tmp_path / "backups").mkdir()
    assert_one_line(megacontext("export", filled_memory, "backups"), 2, "is a folder", "backups/memory.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["backups"]


def test_a_label_given_twice_is_said(megacontext, filled_memory, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    both = ("--label", "team=a", "--label", "team=b")
    result = megacontext("ingest", filled_memory, tmp_path / "a.txt", *both)
    assert_one_line(result, 2, "team is labelled twice, 'a' and 'b'")


def test_what_changes_nothing_of_a_dry_run_is_said(megacontext):
    for option in (["--minutes", "3"], ["--seed", "3"], ["--resume"], ["--start", "x"]):
        result = megacontext("train", "memory", "--dry-run", *option)
        assert_one_line(result, 2, f"{option[0]} changes nothing of a dry run")


def test_no_more_is_read_of_a_text_than_is_scored(megacontext, filled_memory, monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = "é".encode() * (len(buffer) // 2) + b"x" * (len(buffer) % 2)
            return len(buffer)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    scored = megacontext("score", filled_memory, "--text", "-", "--max-tokens", 6, "--json")
    assert scored.data["num_tokens"] == 6


def test_a_demo_with_an_unknown_base_makes_no_folder(megacontext, tmp_path):
    assert_one_line(megacontext("demo", "--out", tmp_path / "demo", "--base", "no/such"), 1, "no/such")
    assert not (tmp_path / "demo").exists()


def test_a_demo_prints_its_results_as_one_document(megacontext, tmp_path, monkeypatch):
    def small(config, *, console, progress):
        config.out.mkdir()
        (config.out / "results.json").write_text('{"comparison": {"facts": 1}}')
        console.print("a table")

    monkeypatch.setattr("megacontext.evaluation.demo.run_demo", small)
    done = megacontext("demo", "--out", tmp_path / "demo", "--json")
    assert done.data == {"comparison": {"facts": 1}}
    assert "a table" in done.err


def test_a_question_longer_than_the_window_names_the_smallest_budget(megacontext, filled_memory):
    result = megacontext("ask", filled_memory, "word " * 500, "--budget", 256)
    assert_one_line(result, 2, "budget of at least")


def test_ask_with_another_gister_than_the_memorys(megacontext, filled_memory):
    assert_one_line(megacontext("ask", filled_memory, "why?", "--gister", "mean"), 1, "gister=extractive")
    assert_one_line(megacontext("ask", filled_memory, "why?", "--gister", "poet"), 2, "extractive, gistnet, mean")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "MEMORY"], ["QUESTION", "--help"]),
        (["ask"], ["MEMORY"]),
        (["paint", "MEMORY"], ["paint"]),
        (["sources", "MEMORY", "--colour"], ["--colour"]),
        (["provenance", "MEMORY", "5"], ["START:STOP"]),
        (["provenance", "MEMORY", "9:5"], ["START:STOP"]),
        (["provenance", "MEMORY", "0:99999999"], ["99999999"]),
        (["focus", "MEMORY", "--pin", "x:y"], ["START:STOP"]),
        (["focus", "MEMORY", "--reveal", "0:99999999"], ["history"]),
        (["ingest", "MEMORY", "x", "--label", "team"], ["KEY=VALUE"]),
        (["ingest", "MEMORY", "-", "x"], ["-"]),
        (["erase", "MEMORY", "facts.md"], ["--yes"]),
        (["erase", "MEMORY", "nobody", "--yes"], ["no source", "nobody"]),
        (["search", "MEMORY", "x", "--limit", "0"], ["--limit"]),
        (["ask", "MEMORY", "why?", "--max-new-tokens", "0"], ["max_new_tokens"]),
        (["ask", "MEMORY", "why?", "--temperature", "-1"], ["temperature"]),
        (["ask", "MEMORY", "why?", "--top-p", "2"], ["top_p"]),
        (["ask", "MEMORY", ""], ["empty"]),
        (["ask", "MEMORY", "why?", "--sources", "-1"], ["--sources"]),
        (["ingest", "MEMORY", ""], ["path is empty"]),
        (["import", "absent.tar", "new.mc"], ["absent.tar", "export"]),
        (["ask", "MEMORY", "\udcff"], ["surrogate"]),
    ],
)
def test_wrong_usage(megacontext, filled_memory, arguments, words):
    arguments = [filled_memory if argument == "MEMORY" else argument for argument in arguments]
    assert_one_line(megacontext(*arguments), 2, *words)


def test_sources_that_cannot_be_ingested(megacontext, memory, documents, tmp_path, fingerprint):
    before = fingerprint(memory)
    (tmp_path / "empty.txt").write_text(" \n")
    assert_one_line(megacontext("ingest", memory, tmp_path / "empty.txt"), 1, "no text")
    assert_one_line(megacontext("ingest", memory, documents / "noise.bin"), 1, "binary")
    assert_one_line(megacontext("ingest", memory, tmp_path / "absent.txt"), 1, "absent.txt")
    assert_one_line(megacontext("ingest", memory, documents / "prose.txt", tmp_path / "absent.txt"), 1, "absent.txt")
    assert fingerprint(memory) == before


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe\x00"])
def test_standard_input_without_text(megacontext, memory, monkeypatch, fingerprint, content):
    before = fingerprint(memory)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert_one_line(megacontext("ingest", memory, "-"), 1, "text")
    assert fingerprint(memory) == before


def test_a_text_to_score_that_cannot_be_read(megacontext, filled_memory, documents, tmp_path):
    assert_one_line(megacontext("score", filled_memory, "--text", tmp_path / "absent"), 1, "absent")
    assert_one_line(megacontext("score", filled_memory, "--text", documents / "noise.bin"), 1, "UTF-8")


def test_a_memory_of_a_newer_schema(megacontext, memory):
    with sqlite3.connect(memory / "catalog.sqlite") as catalog:
        catalog.execute("UPDATE alembic_version SET version_num = '9999'")
        catalog.execute("PRAGMA user_version = 9999")
    catalog.close()
    for verb in (["sources"], ["ask", "why?"], ["ingest", "-"]):
        assert_one_line(megacontext(verb[0], memory, *verb[1:]), 1, "newer")


def test_a_memory_whose_base_changed(megacontext, base_folder, documents, tmp_path):
    own_base = shutil.copytree(base_folder, tmp_path / "base")
    memory = tmp_path / "memory"
    megacontext("init", memory, "--base", own_base)
    megacontext("ingest", memory, documents / "facts.md")
    write_model_folder(own_base, dtype="float32", seed=1)
    before = megacontext("inspect", memory, "--json").out
    assert_one_line(megacontext("ask", memory, "why?"), 1, "fingerprint", f"regist {memory} --base {own_base}")
    assert_one_line(megacontext("ingest", memory, documents / "prose.txt"), 1, "fingerprint")
    assert megacontext("inspect", memory, "--json").out == before
    assert megacontext("sources", memory).code == 0
    shutil.rmtree(own_base)
    assert_one_line(megacontext("ask", memory, "why?"), 1, "no such folder")


def test_a_second_writer_is_told_who_writes(megacontext, memory, documents):
    from megacontext.runtime import assembly

    with assembly.open(memory) as writer:
        writer.append([1, 2, 3])
        assert_one_line(megacontext("ingest", memory, documents / "facts.md"), 1, str(os.getpid()))
        assert megacontext("sources", memory).code == 0
    assert megacontext("ingest", memory, documents / "facts.md").code == 0


def test_archives_that_are_none(megacontext, memory, documents, tmp_path):
    archive = tmp_path / "memory.tar"
    assert megacontext("export", memory, archive).code == 0
    assert_one_line(megacontext("export", memory, archive), 2, "exists")
    assert_one_line(megacontext("export", memory, tmp_path / "no" / "x.tar"), 2, "folder")
    assert_one_line(megacontext("import", archive, memory), 1, "exists")
    assert_one_line(megacontext("import", documents / "prose.txt", tmp_path / "new"), 2, "archive")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "damaged.tar").write_bytes(content)
    damaged = megacontext("import", tmp_path / "damaged.tar", tmp_path / "new")
    assert damaged.code in {1, 2}
    assert damaged.err.count("\n") == 1
    (tmp_path / "short.tar").write_bytes(content[: len(content) // 2])
    assert megacontext("import", tmp_path / "short.tar", tmp_path / "new").code in {1, 2}
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".megacontext-*"))


def test_debug_shows_the_traceback(megacontext, tmp_path):
    result = megacontext("--debug", "sources", tmp_path / "no")
    assert result.code == 1
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("megacontext: ")


def test_a_bug_of_ours_is_one_line_too(megacontext, filled_memory, monkeypatch):
    from megacontext.memory.memory import Memory

    monkeypatch.setattr(Memory, "sources", lambda self: 1 / 0)
    assert_one_line(megacontext("sources", filled_memory), 1, "ZeroDivisionError", "--debug")


def test_output_that_cannot_be_written(filled_memory):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("sources", filled_memory), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def command(*arguments):
    return [sys.executable, "-m", "megacontext.cli", *map(str, arguments)]


def test_a_full_disk_leaves_the_memory_as_it_was(memory, tmp_path, fingerprint):
    before = fingerprint(memory)
    (tmp_path / "large.txt").write_text("".join(f"{number * 7919} " for number in range(60_000)))
    limited = ["bash", "-c", 'ulimit -f 32; exec "$@"', "-", *command("ingest", memory, tmp_path / "large.txt")]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "space" in done.stderr
    assert fingerprint(memory) == before


needs_permissions = pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root without setpriv reads and writes everywhere"
)
# root reads and writes everywhere, unless it gives that up
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def run_unprivileged(*arguments):
    done = subprocess.run([*UNPRIVILEGED, *command(*arguments)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


@needs_permissions
def test_files_that_may_not_be_read_are_named_with_what_to_do(memory, tmp_path):
    folder = tmp_path / "letters"
    (folder / "closed").mkdir(parents=True)
    (folder / "closed" / "inner.txt").write_text("Nobody reads this.")
    (folder / "secret.txt").write_text("Nor this.")
    (folder / "open.txt").write_text("But this.")
    closed = [folder / "closed", folder / "secret.txt"]
    for path in closed:
        path.chmod(0)
    try:
        done = run_unprivileged("ingest", memory, folder, "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["num_sources"]) == (0, 1)
        assert {failure["uri"] for failure in report["failures"]} == {path.as_uri() for path in closed}
        for path in (*closed, folder / "closed" / "inner.txt"):
            done = run_unprivileged("ingest", memory, path)
            assert done.returncode == 1
            assert done.stderr.startswith(f"megacontext: {path} cannot be ")
            assert "(Permission denied); check its" in done.stderr
    finally:
        for path in closed:
            path.chmod(0o755)


@needs_permissions
@pytest.mark.parametrize("locked", ["", "catalog.sqlite", "raw"])
def test_a_memory_that_may_not_be_read_is_named_with_what_to_do(memory, locked):
    (memory / locked).chmod(0)
    try:
        done = run_unprivileged("provenance", memory, "0:9")
    finally:
        (memory / locked).chmod(0o755)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{locked}" in done.stderr
    fixes = ("permissions of the folder", "permissions of the memory's folder", "make it and its folders readable")
    assert any(fix in done.stderr for fix in fixes)


@needs_permissions
def test_a_folder_that_cannot_be_written(memory, documents, fingerprint):
    before = fingerprint(memory)
    for path in [memory, *memory.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for arguments, code in ((["ingest", memory, "-"], 1), (["sources", memory], 0)):
            done = subprocess.run(
                [*UNPRIVILEGED, *command(*arguments)],
                input="Something new.",
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    finally:
        for path in [memory, *memory.rglob("*")]:
            path.chmod(0o755)
    assert fingerprint(memory) == before
