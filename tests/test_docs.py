"""The documentation runs: Python blocks are executed, command lines too, and no verb or option is left out of it."""

from __future__ import annotations

import ast
import doctest
import importlib
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


ROOT = DOCS.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)")


def anchors(page):
    """The names that headings of a page get."""
    headings = re.findall(r"^#+ (.+?)\s*$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """To a file, to a heading in it; from a page of the site never out of its folder, where its build stops."""
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", page.read_text())):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if page.is_relative_to(DOCS):
            assert linked.is_relative_to(DOCS), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


SOURCE = ROOT / "src"
WITH_EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if re.search(r"^ +>>> ", path.read_text(), re.M))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed


def test_classes_with_many_methods_are_accounted_for():
    """The list of docs/architecture.md is that of the code: each class of more than 15 methods, with their number."""
    page = (DOCS / "architecture.md").read_text().partition("## Where the size rules are broken")[2]
    listed = {}
    for names, number in re.findall(r"((?:`\w+`(?: and |, )?)+) \((\d+)", page):
        listed |= dict.fromkeys(re.findall(r"`(\w+)`", names), int(number))
    found = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
                if len(methods) > 15:
                    found[node.name] = len(methods)
    assert listed == found


def test_functions_are_short():
    """Sixty lines, the signature with what its options mean and the docstring left out."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                num_lines = node.end_lineno - body[0].lineno + 1
                assert num_lines <= 60, f"{path.relative_to(SOURCE)}: {node.name} has {num_lines} lines"


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
