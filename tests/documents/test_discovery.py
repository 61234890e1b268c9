"""Which files are found."""

from __future__ import annotations

import subprocess

import pytest

from megacontext.documents.discovery import discover
from megacontext.errors import UnreadableSourceError


def names(root, *paths):
    return [str(found.path.relative_to(root)) for found in discover(paths or [root])]


def test_folders_are_walked_in_order(tree):
    root = tree({"b.txt": "", "a/z.txt": "", "a/b/c.txt": "", "a/a.txt": "", "c/": ""})
    assert names(root) == ["b.txt", "a/a.txt", "a/z.txt", "a/b/c.txt"]
    assert not any(found.named for found in discover([root]))
    assert next(discover([root])).uri == (root / "b.txt").as_uri()


def test_hidden_files_are_left_out_unless_named(tree):
    root = tree({".hidden": "", ".git/config": "", ".config/x": "", "a/.b": "", "a/c": ""})
    assert names(root) == ["a/c"]
    assert names(root, root / ".hidden") == [".hidden"]
    assert names(root, root / ".config") == [".config/x"]
    assert next(discover([root / ".hidden"])).named


IGNORED = {
    ".gitignore": "*.log\n/build\nnode_modules/\n!keep.log\ndoc/*.txt\n",
    "a.log": "",
    "keep.log": "",
    "build/x.py": "",
    "src/build/x.py": "",
    "src/node_modules/deep/x.js": "",
    "src/keep.log": "",
    "doc/a.txt": "",
    "doc/b.md": "",
    "doc/deep/a.txt": "",
    "src/.gitignore": "!special.log\n*.tmp\nsecret/\n",
    "src/special.log": "",
    "src/other.log": "",
    "src/x.tmp": "",
    "src/secret/.gitignore": "!*\n",
    "src/secret/key": "",
    "x.tmp": "",
}


def test_gitignore_as_git_does_it(tree):
    root = tree(IGNORED)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.split()
    visible = [name for name in listed if not name.rsplit("/", 1)[-1].startswith(".")]
    assert sorted(names(root)) == sorted(visible)
    assert "src/special.log" in visible
    assert len(visible) == 7


def test_lines_of_an_ignore_file_that_cannot_be_read_are_passed_over(tree):
    root = tree({".gitignore": "bin\\\n!\n[z-a]\n*.log\n", "a.log": "", "a.py": ""})
    assert names(root) == ["a.py"]


def test_rules_above_a_named_folder_count_within_a_repository(tree):
    root = tree({".gitignore": "*.log\n", "src/a.log": "", "src/a.py": ""})
    assert names(root, root / "src") == ["src/a.log", "src/a.py"]
    (root / ".git").mkdir()
    assert names(root, root / "src") == ["src/a.py"]
    assert names(root, root / "src/a.log") == ["src/a.log"]


def test_links(tree, tmp_path):
    root = tree({"a/x.txt": "1", "b/": ""})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.txt").write_text("2")
    (outside / "back").symlink_to(root)
    (outside / "loop").symlink_to(outside)
    (root / "a/up").symlink_to(root)
    (root / "a/self").symlink_to(root / "a/self")
    (root / "a/dangling").symlink_to(tmp_path / "nowhere")
    (root / "a/x2.txt").symlink_to(root / "a/x.txt")
    (root / "b/out").symlink_to(outside)
    (root / "b/out2").symlink_to(outside)
    (root / "b/file").symlink_to(outside / "o.txt")
    assert names(root) == ["a/x.txt", "b/file", "b/out/o.txt"]


def test_a_linked_root(tree, tmp_path):
    root = tree({"a.txt": ""})
    link = tmp_path / "link"
    link.symlink_to(root)
    assert [found.uri for found in discover([link])] == [(link / "a.txt").as_uri()]


def test_deep_folders(tmp_path):
    path = tmp_path
    for _ in range(150):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "x").write_text("")
    assert len(list(discover([tmp_path]))) == 1


def test_a_misspelt_path_stops_everything(tree):
    root = tree({"a.txt": ""})
    with pytest.raises(UnreadableSourceError, match=r"nothing\.txt does not exist"):
        discover([root, root / "nothing.txt"])


def test_memories_are_no_sources(tree):
    """A memory beside its sources must not be read into itself."""
    root = tree({"a.txt": "", "notes.mc/catalog.sqlite": "x", "notes.mc/catalog.journal": "x"})
    assert names(root) == ["a.txt"]
    with pytest.raises(UnreadableSourceError, match="is a memory; ingest the files"):
        discover([root / "notes.mc"])
