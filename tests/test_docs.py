"""The documentation runs: Python blocks are executed, command lines too, and no verb or option is left out of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from megacontext.cli.app import make_app

DOCS = Path(__file__).parent.parent / "docs"
HEADING = re.compile(r"^### `megacontext ([a-z]+)[^`]*`$", re.MULTILINE)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def sections(page):
    pieces = HEADING.split((DOCS / page).read_text())
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@pytest.mark.slow
def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks("python.md", "python")):
        exec(compile(block, f"python.md, block {number}", "exec"), namespace)
    assert "notes" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_lines_run(tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "megacontext"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m megacontext.cli "$@"\n')
    program.chmod(0o755)
    lines = [line[2:] for block in blocks("cli.md", "console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) > 10
    script = "\n".join(["set -ex", *lines])
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_and_option_is_documented():
    documented = sections("cli.md")
    commands = typer.main.get_command(make_app()).commands
    assert {*documented} == {*commands}
    for name, text in documented.items():
        for parameter in commands[name].params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in text, f"{name} {option} is not in docs/cli.md"
