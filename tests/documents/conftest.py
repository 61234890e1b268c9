"""What the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacontext.documents.loading import OpenFile, load


@pytest.fixture
def parsed(tmp_path):
    """Write bytes (or text as UTF-8) under a name and load them; sections must tile the text."""

    def parse(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with OpenFile(path) as file:
            document = load(path, path.as_uri(), file.whole())
        borders = [0, *(section.char_stop for section in document.sections)]
        assert [section.char_start for section in document.sections] == borders[:-1]
        assert borders[-1] == len(document.text)
        assert document.raw == path.read_bytes()
        document.text.encode("utf-8")
        return document

    return parse


@pytest.fixture
def tree(tmp_path):
    """Make files: ``{relative path: content}``; a path that ends with a slash is a folder."""

    def make(files) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_text(content)
        return root

    return make
