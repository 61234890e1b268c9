"""A failure is one line; a bug is not hidden."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from megacontext.cli.failures import INTERRUPTED, failure_line, run_script
from megacontext.errors import InvalidValueError


def raising(error):
    def main():
        raise error

    return main


def test_what_users_and_systems_did_is_one_line():
    assert failure_line(InvalidValueError("a value\n  is wrong")) == "a value is wrong"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/log.jsonl")
    assert failure_line(full) == (
        "the system says: No space left on device (/runs/log.jsonl); remove the cause and try again"
    )
    assert failure_line(OSError("an old library's words")) is None
    assert failure_line(KeyError("plain")) is None


def test_a_script_ends_with_that_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/recipes/card.py"])
    with pytest.raises(SystemExit) as caught:
        run_script(raising(InvalidValueError("no \x1b[31mfigures")))
    assert caught.value.code == "card.py: no \\x1b[31mfigures"
    with pytest.raises(SystemExit) as caught:
        run_script(raising(KeyboardInterrupt()))
    assert caught.value.code == INTERRUPTED
    with pytest.raises(KeyError):
        run_script(raising(KeyError("plain")))
    run_script(lambda: None)


def test_scripts_need_neither_torch_nor_the_command_line():
    program = "import sys, megacontext.cli.failures; sys.exit(bool({'torch', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
