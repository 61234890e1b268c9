"""The documentation runs: Python blocks are executed, command lines too, and no verb or option is left out of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer

from megacontext.cli.app import make_app

DOCS = Path(__file__).parent.parent / "docs"
PAGES_WITH_PYTHON = [
    DOCS.parent / "README.md",
    *sorted(page for page in DOCS.glob("*.md") if "```python" in page.read_text()),
]
HEADING = re.compile(r"^### `megacontext ([a-z]+)[^`]*`$", re.MULTILINE)


def blocks(page, language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def sections(page):
    pieces = HEADING.split((DOCS / page).read_text())
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "documentation"}
    examples = blocks(page, "python")
    assert examples
    for number, block in enumerate(examples):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.slow
def test_the_command_lines_run(tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "megacontext"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m megacontext.cli "$@"\n')
    program.chmod(0o755)
    lines = [
        line[2:] for block in blocks(DOCS / "cli.md", "console") for line in block.splitlines() if line.startswith("$ ")
    ]
    assert len(lines) > 10
    script = "\n".join(["set -ex", *lines])
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
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
