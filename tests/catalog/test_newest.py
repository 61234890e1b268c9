"""What a catalog remembers of its last commit is what lies in the file, whoever wrote in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.ports.catalog import Segment
from megacontext.testing.catalog_suite import EXAMPLE_INFO, add_example_source


@pytest.fixture
def catalog(tmp_path: Path):
    catalog = SqliteCatalog.create(tmp_path, EXAMPLE_INFO)
    with catalog.write() as writer:
        add_example_source(writer, 0, 20)
    yield catalog
    catalog.close()


def extend(catalog: SqliteCatalog, source_id: int, start: int, stop: int) -> None:
    with catalog.write() as writer:
        writer.append_tail(start, np.arange(start, stop, dtype=np.uint32))
        writer.extend_source(source_id, token_stop=stop, num_bytes=4 * stop)


def assert_intact(catalog: SqliteCatalog, num_tokens: int) -> None:
    """Everything adds up to ``num_tokens`` ascending tokens, also for one who has never written."""
    other = SqliteCatalog.open(catalog._path.parent, read_only=True)
    for one in (catalog, other):
        assert list(one.check()) == []
        assert one.state().num_tokens == num_tokens
        sealed, tail = one.tail(0, num_tokens)
        assert tail.tolist() == list(range(sealed, num_tokens))
        assert one.sources()[-1].token_stop == num_tokens
        assert one.extents(num_tokens - 1, num_tokens)[0][1].token_stop == num_tokens
    other.close()


def test_many_appends_are_one_long_one(catalog: SqliteCatalog) -> None:
    for start in range(20, 400, 4):
        extend(catalog, 1, start, start + 4)
    assert_intact(catalog, 400)


def test_an_append_reads_nothing_that_it_wrote(catalog: SqliteCatalog) -> None:
    extend(catalog, 1, 20, 24)
    statements: list[str] = []
    catalog._connections.writer().set_trace_callback(statements.append)
    extend(catalog, 1, 24, 28)
    catalog._connections.writer().set_trace_callback(None)
    assert not [statement for statement in statements if statement.startswith("SELECT")]


def test_what_another_process_committed_is_read(catalog: SqliteCatalog) -> None:
    extend(catalog, 1, 20, 24)
    other = SqliteCatalog.open(catalog._path.parent)
    extend(other, 1, 24, 28)
    with other.write() as writer:
        add_example_source(writer, 28, 40, uri="file:///b")
    extend(catalog, 2, 40, 44)
    extend(other, 2, 44, 48)
    other.close()
    extend(catalog, 2, 48, 52)
    assert_intact(catalog, 52)


def test_what_failed_is_forgotten(catalog: SqliteCatalog) -> None:
    extend(catalog, 1, 20, 24)
    with pytest.raises(ZeroDivisionError), catalog.write() as writer:  # noqa: PT012 - it fails after it has changed things
        add_example_source(writer, 24, 40, uri="file:///b")
        raise ZeroDivisionError
    extend(catalog, 1, 24, 28)
    assert_intact(catalog, 28)


def test_sealing_replacing_and_erasing_change_what_comes_next(catalog: SqliteCatalog) -> None:
    extend(catalog, 1, 20, 70)
    with catalog.write() as writer:
        writer.seal(Segment(segment=0, digest="d", raw_digest="r"))
    extend(catalog, 1, 70, 74)
    with catalog.write() as writer:
        writer.replace_tail(68, np.arange(68, 72, dtype=np.uint32))
    extend(catalog, 1, 74, 78)
    with catalog.write() as writer:
        writer.set_label(1, "colour", "blue")
    extend(catalog, 1, 78, 82)
    assert catalog.sources()[0].labels["colour"] == "blue"
    with catalog.write() as writer:
        writer.erase_source(1)
    extend(catalog, 1, 82, 86)
    assert catalog.sources()[0].uri.startswith("erased")
    assert_intact(catalog, 86)


def test_a_rebuilt_or_compacted_catalog_is_read_anew(catalog: SqliteCatalog) -> None:
    extend(catalog, 1, 20, 24)
    catalog.compact()
    extend(catalog, 1, 24, 28)
    catalog._path.write_bytes(b"damaged")
    catalog.rebuild()
    extend(catalog, 1, 28, 32)
    assert_intact(catalog, 32)
