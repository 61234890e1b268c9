"""Where a memory lives: a folder or a URL, as a TensorStore key-value store."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from megacontext.errors import InvalidValueError

__all__ = ["KNOWN_SCHEMES", "kvstore_spec", "local_folder"]

KNOWN_SCHEMES = ("file", "gs", "memory", "s3")

# query parameters of a URL that the driver of a scheme understands
_OPTIONS = {"s3": ("endpoint", "aws_region", "host_header"), "gs": (), "memory": (), "file": ()}


def local_folder(location: str | Path) -> Path | None:
    """The folder of a local location, or None for one in an object store or in memory."""
    if isinstance(location, Path) or "://" not in location:
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.netloc + parts.path)) if parts.scheme == "file" else None


def kvstore_spec(location: str | Path, *folders: str) -> dict[str, Any]:
    """The TensorStore spec of ``location`` and the folders below it.

    location: a folder, ``file:///folder``, ``memory://name``, ``s3://bucket/prefix?endpoint=...&aws_region=...`` or
    ``gs://bucket/prefix``. Raises InvalidValueError for anything else.

    >>> kvstore_spec("gs://bucket/notes", "arrays")
    {'driver': 'gcs', 'bucket': 'bucket', 'path': 'notes/arrays/'}
    """
    below = "".join(f"{folder}/" for folder in folders)
    folder = local_folder(location)
    if folder is not None:
        return {"driver": "file", "path": f"{folder.absolute()}/{below}", "file_io_sync": True}
    parts = urlsplit(str(location))
    if parts.scheme not in KNOWN_SCHEMES:
        raise InvalidValueError(
            f"cannot store a memory at {location!r}; use a folder or a URL that starts with "
            + ", ".join(f"{scheme}://" for scheme in KNOWN_SCHEMES)
        )
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    unknown = sorted(set(options) - set(_OPTIONS[parts.scheme]))
    if unknown:
        raise InvalidValueError(
            f"{location!r} has unknown options {', '.join(unknown)}; "
            f"known for {parts.scheme}://: {', '.join(_OPTIONS[parts.scheme]) or 'none'}"
        )
    path = parts.path.strip("/")
    prefix = f"{path}/{below}" if path else below
    if parts.scheme == "memory":
        return {"driver": "memory", "path": f"{parts.netloc}/{prefix}"}
    if not parts.netloc:
        raise InvalidValueError(f"{location!r} names no bucket; write {parts.scheme}://bucket/prefix")
    driver = {"s3": "s3", "gs": "gcs"}[parts.scheme]
    return {"driver": driver, "bucket": parts.netloc, "path": prefix, **options}
