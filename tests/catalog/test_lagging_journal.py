"""A journal that lacks the last commits, as a kill or a full disk leaves it, never takes them back from the catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.catalog.conftest import change, contents, findings, rebuild

from megacontext.catalog.journal import Journal
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import CorruptionError
from megacontext.testing.catalog_suite import add_example_source, example_gists


@pytest.fixture
def lagging(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal lacks the last three commits: a source, one more that grows the tail, and a label."""
    catalog = SqliteCatalog.open(folder)
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "record", lambda *given: None)
        for number in (0, 1):
            with catalog.write() as writer:
                add_example_source(writer, 480 + 10 * number, 490 + 10 * number, uri=f"file:///late/{number}")
                writer.put_gists(1, 60 + number, example_gists(1, seed=20 + number))
        with catalog.write() as writer:
            writer.set_label(1, "seen", "late")
    catalog.close()
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sources SET author = 'Eve' WHERE source_id = 2",
        "UPDATE extents SET byte_stop = 3 WHERE extent_id = 12",
        "UPDATE labels SET value = 'none' WHERE source_id = 2",
        "UPDATE segments SET digest = 'x' WHERE segment = 3",
        "UPDATE sealed_nodes SET crc = crc + 1",
        "UPDATE memory SET crc = crc + 1",
        "CREATE TABLE extra (x)",
        "DELETE FROM sources WHERE source_id = 5",
        "DELETE FROM extents WHERE extent_id = 5",
    ],
)
def test_a_journal_that_lags_behind_takes_no_commit_back(lagging: Path, statement: str) -> None:
    expected = contents(lagging)
    change(lagging, "PRAGMA foreign_keys = OFF", statement)
    assert {damage.repairable for damage in findings(lagging)} == {"journal"}
    rebuild(lagging)
    assert findings(lagging) == []
    got = contents(lagging)
    assert got[1].num_tokens == 500
    assert (got[0], *got[2:8]) == (expected[0], *expected[2:8])  # with the gists that wait


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sources SET author = 'Eve' WHERE source_id = 14",
        "UPDATE extents SET byte_stop = 3 WHERE extent_id = 13",
        "UPDATE labels SET crc = crc + 1 WHERE value = 'late'",
        "UPDATE tail SET crc = crc + 1 WHERE start = (SELECT max(start) FROM tail)",
    ],
)
def test_commits_that_no_copy_has_whole_are_not_given_up(lagging: Path, statement: str) -> None:
    change(lagging, statement)
    before = [(lagging / name).read_bytes() for name in ("catalog.sqlite", "catalog.journal")]
    catalog = SqliteCatalog.open(lagging)
    with pytest.raises(CorruptionError, match=r"catalog\.journal lacks its last 3 commits; restore a backup, or move"):
        catalog.rebuild()
    assert catalog.state().num_tokens == 500
    catalog.close()
    assert [(lagging / name).read_bytes() for name in ("catalog.sqlite", "catalog.journal")] == before
    (lagging / "catalog.sqlite").rename(lagging / "aside")
    rebuild(lagging)
    assert findings(lagging) == []
    assert contents(lagging)[1].num_tokens == 480


def test_a_name_that_may_have_been_erased_since_is_not_brought_back(lagging: Path) -> None:
    change(lagging, "UPDATE sources SET author = 'Eve' WHERE source_id = 2")
    (lagging / "catalog.traces").touch()  # of an erasure whose last step is due
    with pytest.raises(CorruptionError, match="lacks its last 3 commits"):
        rebuild(lagging)


def test_a_source_that_grew_since_is_not_taken_from_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = SqliteCatalog.open(folder)
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "record", lambda *given: None)
        with catalog.write() as writer:
            writer.append_tail(480, np.arange(5, dtype=np.uint32))
            writer.extend_source(12, token_stop=485, num_bytes=45)
    catalog.close()
    change(folder, "UPDATE sources SET author = 'Eve' WHERE source_id = 12")
    with pytest.raises(CorruptionError, match="lacks its last 1 commits"):
        rebuild(folder)


def test_a_damaged_row_never_takes_the_place_of_its_copy(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the journal is written anew."""
    expected = contents(folder)[2][1]
    change(folder, "UPDATE sources SET author = 'Eve' WHERE source_id = 2")
    catalog = SqliteCatalog.open(folder)
    catalog._journal._num_commits = -1  # as if the last commit could not be written to it
    with catalog.write() as writer:
        writer.set_label(1, "seen", "late")
    assert "row 2 of sources fails its checksum" in caplog.text
    catalog.rebuild()
    assert catalog.sources()[1] == expected
    assert catalog.sources()[0].labels["seen"] == "late"
    catalog.close()
    assert findings(folder) == []
