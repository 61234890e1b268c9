"""What people use, pinned: a change here is a decision, with a line in the changelog."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import typer

import megacontext
from megacontext.cli.app import make_app
from megacontext.memory.memory import Memory
from megacontext.runtime.opened import OpenedMemory
from megacontext.runtime.session import Session

COMMANDS = {
    "ask": "--allocator --budget --gister --json --lens --max-new-tokens --seed --sources --temperature --top-p",
    "bases": "--json",
    "chat": "--allocator --budget --lens --max-new-tokens --seed --temperature --top-p",
    "check": "--json --recompute-gists --repair",
    "complete": "--allocator --budget --json --lens --max-new-tokens --prompt --seed --temperature --top-p",
    "demo": "--base --budget --continuations --facts --json --out --seed --tokens",
    "erase": "--json --yes",
    "eval": "--base --block-tokens --budget --data --gist-width --json --lengths --list --methods --out --quick "
    "--resume --samples --seed --task",
    "export": "--json",
    "focus": "--allocator --budget --json --lens --pin --query --reveal --show --unpin",
    "import": "--json",
    "ingest": "--author --json --label --licence --name --role",
    "init": "--base --block-tokens --config --gist-width --gister --json",
    "inspect": "--json",
    "port": "--device --dtype --install --json --out --quick",
    "provenance": "--json",
    "regist": "--base --block-tokens --gist-width --gister --json --keep-old --lossy-tokens --restart",
    "score": "--budget --json --lens --max-tokens --text",
    "search": "--json --limit",
    "sources": "--json",
    "train": "--data --device --dry-run --eager --json --minutes --out --packages --resume --seed --start --track",
}


def options_of(command):
    return sorted(
        name for parameter in command.params for name in parameter.opts if name.startswith("--") and name != "--help"
    )


def public(kind):
    return sorted(name for name in dir(kind) if not name.startswith("_"))


def test_the_package_exports_these_names():
    assert megacontext.__all__ == [
        "DoneEvent",
        "MegaContextError",
        "RefocusEvent",
        "TokenEvent",
        "WarningEvent",
        "__version__",
        "open",
        "together",
    ]
    for name in megacontext.__all__:
        assert getattr(megacontext, name) is not None


def test_open_takes_these_arguments():
    assert list(inspect.signature(megacontext.open).parameters) == [
        "path", "base", "create", "gister", "block_tokens", "gist_width", "read_only", "cache_bytes",
        "read_timeout_s", "dtype", "device", "base_config", "api_key",
    ]  # fmt: skip


def test_a_memory_has_these_powers():
    assert public(Memory) == [
        "append", "append_text", "check", "close", "codec", "erase", "gists", "info", "ingest", "inspect",
        "is_missing_gists", "num_levels", "num_tokens", "provenance", "reader", "refresh", "search", "search_hits",
        "sources", "store_gists", "text", "tokens", "tree",
    ]  # fmt: skip
    assert sorted({*public(OpenedMemory)} - {*public(Memory)}) == ["base", "restore_session", "session"]


def test_a_session_has_these_powers():
    assert public(Session) == [
        "close", "complete", "explain", "generate", "nll", "num_forwarded_entries", "pin", "refocus", "resize",
        "reveal", "save", "unpin", "working_context",
    ]  # fmt: skip
    assert list(inspect.signature(OpenedMemory.session).parameters) == [
        "self", "budget_entries", "lens", "allocator", "kv", "positions", "refocus_interval", "sink_tokens",
        "recent_tokens", "gist_value", "seed",
    ]  # fmt: skip


def test_the_command_line_has_these_verbs_and_options():
    commands = typer.main.get_command(make_app()).commands
    assert {name: " ".join(options_of(command)) for name, command in commands.items()} == COMMANDS


def test_importing_the_package_is_light():
    heavy = {"torch", "transformers", "tensorstore", "sqlalchemy"}
    probe = f"import sys, megacontext; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


SOURCE = Path(megacontext.__file__).parent
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py", "env.py")]


def test_every_module_says_what_is_public():
    """What another module imports stands in ``__all__``, and what stands there is defined (ruff sorts it)."""
    public, imported = {}, []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        listed = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
        ]
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [part for target in targets if target for part in ast.walk(target)]
            defined |= {part.id for part in names if isinstance(part, ast.Name)}
        if "versions" not in path.parts:
            assert len(listed) == 1, f"{name} has no __all__"
            assert {*listed[0]} <= defined, name
            public[name] = {*listed[0]}
        imported += [
            (name, node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        ]
    private = {f"{module}.{name}" for _, module, name in imported if module in public and name not in public[module]}
    assert private == set()
