"""Standard input of any length, from a pipe that can be read only once."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megacontext.runtime import assembly
from megacontext.units import MIB

LINE = b"A line that speaks of the weather and of bread.\n"

# what Python holds, once everything is imported that a refusal needs
PEAK = """
import io, sys, tracemalloc
from megacontext.cli.main import run
arguments, stdin = sys.argv[1:], sys.stdin
sys.stdin = io.TextIOWrapper(io.BytesIO(b"caf\\xe9"))
run(arguments)
sys.stdin = stdin
tracemalloc.start()
code = run(arguments)
print(tracemalloc.get_traced_memory()[1])
sys.exit(code)
"""


def command(*arguments):
    return [sys.executable, "-m", "megacontext.cli", *map(str, arguments)]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock")


def test_memory_does_not_grow_with_what_is_piped_in(memory, fingerprint):
    """Eighty megabytes that turn out to be no text at the very end: all of them were kept and looked at."""
    before, files = fingerprint(memory), names(memory)
    process = subprocess.Popen(
        [sys.executable, "-c", PEAK, "ingest", str(memory), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    piece = LINE * (MIB // len(LINE))
    with process:
        for _ in range(80):
            process.stdin.write(piece)
        out, errors = process.communicate(b"caf\xe9", timeout=120)
    assert process.returncode == 1, errors
    assert f"stdin is not UTF-8: byte 0xe9 at {80 * len(piece) + 3};" in errors.decode().splitlines()[-1]
    assert int(out.split()[-1]) < 24 * MIB
    assert (fingerprint(memory), names(memory)) == (before, files)


def test_a_long_text_from_a_pipe_is_like_one_from_a_file(megacontext, base_folder, tmp_path):
    """More than is read in one piece."""
    memory = tmp_path / "memory"
    megacontext("init", memory, "--base", base_folder, "--gister", "mean")
    text = "".join(f"Line {number} speaks of bréad.\n" for number in range(22_000))
    (tmp_path / "long.txt").write_bytes(text.encode("utf-16"))
    assert (tmp_path / "long.txt").stat().st_size > MIB
    for _ in range(2):
        with (tmp_path / "long.txt").open("rb") as file:
            process = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        with process:
            done = subprocess.run(
                command("ingest", memory, "-", "--name", "long", "--json"),
                stdin=process.stdout,
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert (done.returncode, done.stderr) == (0, "")
    assert '"num_unchanged": 1' in done.stdout
    megacontext("ingest", memory, tmp_path / "long.txt")
    piped, named = megacontext("sources", memory, "--json").data[-2:]
    assert piped["uri"] == "long"
    for same in ("num_bytes", "kind"):
        assert piped[same] == named[same]
    assert piped["token_stop"] - piped["token_start"] == named["token_stop"] - named["token_start"]
    assert megacontext("check", memory).code == 0


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_whoever_stops_it_while_it_reads_finds_nothing(memory, fingerprint, by, code):
    before, files = fingerprint(memory), names(memory)
    process = subprocess.Popen(
        command("ingest", memory, "-"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        process.stdin.write(LINE * (3 * MIB // len(LINE)))
        process.stdin.flush()
        while process.poll() is None and kept_bytes(process.pid, memory) < MIB:
            time.sleep(0.01)
        process.send_signal(by)
        errors = process.stderr.read()
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert (fingerprint(memory), names(memory)) == (before, files)


def kept_bytes(process, folder):
    """Of the file without a name that a process has in a folder."""
    for handle in Path(f"/proc/{process}/fd").iterdir():
        try:
            if handle.readlink().is_relative_to(folder) and handle.stat().st_nlink == 0:
                return handle.stat().st_size
        except FileNotFoundError:  # it was closed just now
            continue
    return 0


def test_a_disk_that_cannot_hold_it(memory, fingerprint):
    before, files = fingerprint(memory), names(memory)
    limited = ["bash", "-c", 'ulimit -f 512; exec "$@"', "-", *command("ingest", memory, "-")]
    done = subprocess.run(limited, input=LINE * 40_000, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(b"megacontext: no space left while keeping standard input beside the memory")
    assert done.stderr.count(b"\n") == 1
    assert (fingerprint(memory), names(memory)) == (before, files)


def test_standard_input_that_is_closed(memory):
    closed = ["bash", "-c", 'exec "$@" <&-', "-", *command("ingest", memory, "-")]
    done = subprocess.run(closed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("megacontext: standard input is closed")


@pytest.mark.parametrize("paths", [["notes.txt"], ["notes.txt", "more.txt"]])
def test_a_name_is_for_standard_input(memory, fingerprint, tmp_path, paths):
    before = fingerprint(memory)
    for path in paths:
        (tmp_path / path).write_text("words")
    given = command("ingest", memory, *(tmp_path / path for path in paths), "--name", "stdin")
    done = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--name names standard input (-); files are named by their paths" in done.stderr
    assert fingerprint(memory) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chat",), "standard input is closed; pipe the turns into it"),
        (("score", "--text", "-"), "standard input is closed; give --text a file"),
        (("ingest", "-"), "standard input is closed; pipe a text into it"),
        (("erase", "notes"), "erasing cannot be undone; add --yes"),
    ],
)
def test_standard_input_that_is_closed_is_said(megacontext, memory, monkeypatch, arguments, said):
    monkeypatch.setattr(sys, "stdin", None)
    done = megacontext(arguments[0], memory, *arguments[1:])
    assert done.code != 0
    assert said in done.err
    assert "unexpected" not in done.err
    assert done.err.count("\n") == 1


def test_empty_lines_between_piped_turns_are_passed_over(megacontext, memory, monkeypatch):
    turns = io.TextIOWrapper(io.BytesIO(b"One?\n\n  \nTwo?\n\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", turns)
    assert megacontext("chat", memory, "--max-new-tokens", 2).code == 0
    with assembly.open(memory, read_only=True) as opened:
        said = opened.text(0, opened.num_tokens)
    assert "One?" in said
    assert "Two?" in said


def test_a_turn_in_another_encoding_is_said(megacontext, memory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    done = megacontext("chat", memory)
    assert done.code == 1
    assert "standard input is no utf-8 text (" in done.err
    assert "convert it first" in done.err
