"""Places of a memory as specs of TensorStore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorstore as ts

from megacontext.errors import InvalidValueError
from megacontext.storage.locations import kvstore_spec, local_folder


@pytest.mark.parametrize(
    ("location", "spec"),
    [
        ("/data/notes.mc", {"driver": "file", "path": "/data/notes.mc/arrays/", "file_io_sync": True}),
        (Path("/data/notes.mc"), {"driver": "file", "path": "/data/notes.mc/arrays/", "file_io_sync": True}),
        ("file:///data/my%20notes.mc", {"driver": "file", "path": "/data/my notes.mc/arrays/", "file_io_sync": True}),
        ("memory://notes", {"driver": "memory", "path": "notes/arrays/"}),
        ("gs://bucket/a/b/", {"driver": "gcs", "bucket": "bucket", "path": "a/b/arrays/"}),
        ("s3://bucket", {"driver": "s3", "bucket": "bucket", "path": "arrays/"}),
        (
            "s3://bucket/a?endpoint=http://127.0.0.1:5123&aws_region=us-east-1",
            {
                "driver": "s3",
                "bucket": "bucket",
                "path": "a/arrays/",
                "endpoint": "http://127.0.0.1:5123",
                "aws_region": "us-east-1",
            },
        ),
    ],
)
def test_specs(location: str | Path, spec: dict[str, Any]) -> None:
    assert kvstore_spec(location, "arrays") == spec
    ts.KvStore.Spec(spec)  # TensorStore understands it


def test_relative_folders_are_pinned_where_we_are_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kvstore_spec("notes.mc")["path"] == f"{tmp_path}/notes.mc/"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("az://container/x", "s3://"),
        ("http://example.org/x", "s3://"),
        ("s3:///prefix", "names no bucket"),
        ("gs://bucket/x?endpoint=y", "unknown options endpoint"),
    ],
)
def test_other_places_are_refused(location: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        kvstore_spec(location)


def test_local_folders() -> None:
    assert local_folder("notes.mc") == Path("notes.mc")
    assert local_folder("file:///data/x") == Path("/data/x")
    assert local_folder("s3://bucket/x") is None
