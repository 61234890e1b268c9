"""Does a longer history take more memory of the process? Resident memory at 10 M tokens against 100 k.

Every figure is a fresh process: one that reads the history in, one that opens it, refocuses and generates. And one that
ingests a single text file, six times as long as another, by its name and from a pipe.
python benchmarks/memory_footprint.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from histories import make_history
from megacontext.bases.registry import BaseHandle
from megacontext.cli.main import run
from megacontext.evaluation.library import assemble_library
from megacontext.runtime.assembly import open as open_memory
from megacontext.units import MIB, format_count
from record import parser, record, row

NUM_GENERATED = 16
LIBRARY_TOKENS = 100_000
FILE_BYTES = (10_000_000, 60_000_000)
QUESTIONS = ("What did the Count say about the castle?", "How is a socket closed?", "Who came down to the river?")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, nargs=2, default=(100_000, 10_000_000), metavar=("SHORT", "LONG"))
    arguments.add_argument("--inner", choices=sorted(WORK), help=argparse.SUPPRESS)
    arguments.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.inner:
        WORK[given.inner](given.memory, given.tokens[0])
        print(json.dumps(peak_bytes()))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for work in ("read in", "ask"):
            lengths = [format_count(length) for length in given.tokens]
            sizes = [in_fresh_process(work, Path(folder) / f"{length}.mc", length) for length in given.tokens]
            rows.append(against(f"{work}: {lengths[1]} of history / {lengths[0]}", *sizes))
        files = [make_file(Path(folder) / f"{num_bytes}.txt", num_bytes) for num_bytes in FILE_BYTES]
        small, large = (num_bytes // 10**6 for num_bytes in FILE_BYTES)
        for work, what in (("ingest", "one file ingested"), ("piped", "standard input ingested")):
            sizes = [in_fresh_process(work, file, 0) for file in files]
            rows.append(against(f"{what}: {large} MB / {small} MB", *sizes))
    record("memory_footprint", rows, given.out)


def against(what: str, short: int, long: int) -> dict[str, object]:
    """Peak bytes of the long against those of the short."""
    return row(
        f"peak resident memory, {what}", long / short, "x", at_most=1.2, short_mib=short / MIB, long_mib=long / MIB
    )


def make_file(path: Path, num_bytes: int) -> Path:
    """A text file of about this length: the library's lines again and again, in other orders."""
    texts = assemble_library(BaseHandle("reference").codec, num_tokens=LIBRARY_TOKENS, seed=0).texts
    lines = "".join(text.text for text in texts).splitlines(keepends=True)
    random = Random(0)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < num_bytes:
            file.writelines(lines)
            random.shuffle(lines)
    return path


def in_fresh_process(work: str, memory: Path, num_tokens: int) -> int:
    """Peak resident bytes of a process that does one kind of work on one memory."""
    command = [sys.executable, __file__, "--inner", work, "--memory", str(memory), "--tokens", *[str(num_tokens)] * 2]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(output.splitlines()[-1]))


def read_in(folder: Path, num_tokens: int) -> None:
    """Append the history with mean gists, 65,536 tokens at a time; the text at hand is equally much for any length."""
    make_history(folder, BaseHandle("reference"), num_tokens, library_tokens=LIBRARY_TOKENS).close()


def ingest(file: Path, num_tokens: int) -> None:
    """One text file into a memory of its own, with mean gists."""
    with open_memory(file.with_suffix(".mc"), base="reference", create=True, gister="mean") as memory:
        assert memory.ingest(file).num_tokens > num_tokens


def piped(file: Path, num_tokens: int) -> None:
    """The same through ``megacontext ingest MEMORY -``."""
    memory = str(file.with_suffix(".piped"))
    open_memory(memory, base="reference", create=True, gister="mean").close()
    with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as pipe:
        assert pipe.stdout is not None
        os.dup2(pipe.stdout.fileno(), sys.stdin.fileno())
        assert run(["ingest", memory, "-"]) == 0


def ask(folder: Path, num_tokens: int) -> None:
    """Open, focus on questions, generate."""
    with open_memory(folder) as memory, memory.session(budget_entries=1024) as session:
        assert memory.num_tokens == num_tokens
        for question in QUESTIONS:
            for _ in session.generate(question, max_new_tokens=NUM_GENERATED):
                pass


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux counts in KiB)."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


WORK: dict[str, Callable[[Path, int], None]] = {"read in": read_in, "ask": ask, "ingest": ingest, "piped": piped}

if __name__ == "__main__":
    main()
