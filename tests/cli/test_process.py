"""The command line as a process: what it imports, and how it ends when somebody interrupts."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from megacontext.runtime import assembly


def command(*arguments):
    return [sys.executable, "-m", "megacontext.cli", *map(str, arguments)]


PROBE = """
import sys
from megacontext.cli.main import run
code = run(sys.argv[1:])
heavy = sorted(name for name in ("torch", "transformers", "matplotlib") if name in sys.modules)
sys.exit(f"{heavy} after {sys.argv[1:]}" if code or heavy else 0)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ask", "--help"],
        ["sources", "MEMORY"],
        ["search", "MEMORY", "bread"],
        ["provenance", "MEMORY", "0:9"],
        ["inspect", "MEMORY"],
        ["check", "MEMORY"],
    ],
)
def test_verbs_that_run_no_model_import_no_torch(filled_memory, arguments):
    arguments = [str(filled_memory) if argument == "MEMORY" else argument for argument in arguments]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["sources"],
        ["sources", "--json"],
        ["search", "bread"],
        ["search", "bread", "--json"],
        ["ask", "Kolibri?", "--max-new-tokens", 2],
    ],
)
def test_a_reader_that_goes_away_is_no_error(filled_memory, arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command(arguments[0], filled_memory, *arguments[1:]),
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write_end)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_changes_no_exit_code(filled_memory, stream):
    redirect = {"stdout": ">&-", "stderr": "2>&-"}[stream]
    for arguments, code in ((["sources", str(filled_memory)], 0), (["nonsense"], 2)):
        line = f"{shlex.join(command(*arguments))} {redirect}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert "unexpected" not in done.stderr


def test_sigterm_leaves_nothing_half_written(filled_memory, tmp_path):
    script = """
import sys, time
from megacontext.runtime import transfer
transfer.write_archive = lambda *args: (print("writing", flush=True), time.sleep(60))
from megacontext.cli.main import main
main()
"""
    arguments = [sys.executable, "-c", script, "export", str(filled_memory), str(tmp_path / "a.tar")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (143, "")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_quietly_with_130(filled_memory):
    arguments = command("complete", filled_memory, "--max-new-tokens", 3000, "--budget", 4000)
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        # where the tests run in the background, the shell has told them and their children to ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # a fast model cannot end its answer unread
    try:
        process.stdout.read(1)  # it streams by now
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip() == b""


# The model's answers may be a few tokens long; one that lasts, and says how far it is, can be interrupted for sure.
SLOW_CHAT = """
import sys, time
from megacontext.cli.main import run
from megacontext.runtime.decode import ModelWindow
steps, append = open(sys.argv.pop(1), "ab", buffering=0), ModelWindow.append
def slow_append(window, token_ids):
    steps.write(b".")
    time.sleep(0.5)
    append(window, token_ids)
ModelWindow.append = slow_append
sys.exit(run(sys.argv[1:]))
"""


def test_ctrl_c_amid_an_answer_keeps_the_turns_so_far(filled_memory, tmp_path):
    memory = shutil.copytree(filled_memory, tmp_path / "memory")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SLOW_CHAT,
            str(tmp_path / "steps"),
            "chat",
            str(memory),
            "--max-new-tokens",
            "8",
            "--budget",
            "2000",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    try:
        process.stdin.write(b"The first turn?\n")
        with assembly.open(memory, read_only=True) as opened:
            while len(opened.sources()) < 4:  # the turn, its answer and the two files
                os.set_blocking(process.stdout.fileno(), False)
                process.stdout.read(4096)
                assert process.poll() is None
                time.sleep(0.05)
                opened.refresh()
        first_answer = (tmp_path / "steps").stat().st_size
        process.stdin.write(b"The second turn?\n")
        while (tmp_path / "steps").stat().st_size == first_answer:
            process.stdout.read(4096)
            assert process.poll() is None
            time.sleep(0.05)
        os.set_blocking(process.stdout.fileno(), True)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert errors.strip() == b""
    with assembly.open(memory, read_only=True) as opened:
        turns = [source for source in opened.sources() if source.uri.startswith("chat/")]
        assert [turn.role for turn in turns] == ["user", "assistant"]
        assert "The first turn?" in opened.text(turns[0].token_start, turns[0].token_stop)
        assert opened.check().ok


def test_an_answer_in_a_pipe_has_no_colours(filled_memory):
    done = subprocess.run(
        command("ask", filled_memory, "Kolibri?", "--max-new-tokens", 2), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b[" not in done.stdout
    assert done.stderr == b""
