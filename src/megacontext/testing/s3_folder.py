"""A folder served as an S3 bucket, for reading: near enough to the real thing to be slow, silent or gone on demand."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

__all__ = ["S3Folder"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class S3Folder:
    """Serves the files below ``folder`` at ``url``; a context manager.

    latency_s: how long each answer takes to begin. is_silent: True leaves requests without an answer, until it is False
    again. num_requests: objects that were asked for, in all. S3 wants credentials in the environment; any do.
    """

    def __init__(self, folder: Path, *, latency_s: float = 0.0) -> None:
        self.folder = folder
        self.latency_s = latency_s
        self.num_requests = 0
        self._speaks = threading.Event()
        self._speaks.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """A location of ``storage``, with the folder as its root."""
        return f"s3://bucket?endpoint=http://127.0.0.1:{self._server.server_port}&aws_region=us-east-1"

    @property
    def is_silent(self) -> bool:
        return not self._speaks.is_set()

    @is_silent.setter
    def is_silent(self, is_silent: bool) -> None:
        (self._speaks.clear if is_silent else self._speaks.set)()

    def wait_for_turn(self) -> None:
        """As long as a request has to."""
        self.num_requests += 1
        time.sleep(self.latency_s)
        self._speaks.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._speaks.set()
        self._server.shutdown()
        self._server.server_close()


def _handler_of(served: S3Folder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.wait_for_turn()
            path = served.folder / unquote(urlsplit(self.path).path).removeprefix("/bucket/")
            try:
                content = path.read_bytes()
            except OSError:
                self._answer(404, b"")
                return
            first, last = _range_of(self.headers.get("Range"), len(content))
            part = content[first:last]
            extent = f"bytes {first}-{last - 1}/{len(content)}"
            is_whole = len(part) == len(content)
            self._answer(200 if is_whole else 206, part, {} if is_whole else {"Content-Range": extent})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"fixed"')
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    return Handler


def _range_of(header: str | None, size: int) -> tuple[int, int]:
    """What of an object is asked for, as ``[first, last)``."""
    found = _RANGE.match(header or "")
    if found is None:
        return 0, size
    first, last = found.groups()
    if not first:  # the end of it
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)
