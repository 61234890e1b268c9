"""Migrations: what they make, what they refuse, and that a failed one changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from megacontext.catalog import schema, upgrades
from megacontext.catalog.sqlite import SqliteCatalog
from megacontext.errors import CorruptionError, MemoryExistsError, MemoryNotFoundError, SchemaVersionError
from megacontext.testing.catalog_suite import EXAMPLE_INFO

SECOND = '''
"""A later schema, for the test."""
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("segments", sa.Column("note", sa.Text(), nullable=False, server_default="none"))
    {then}
'''


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This release, with one migration more; the migration's file."""
    folder = tmp_path / "migrations % of a later release"
    shutil.copytree(upgrades.MIGRATIONS_FOLDER, folder)
    path = folder / "versions" / "r0002_second.py"
    path.write_text(SECOND.format(then="pass"))
    monkeypatch.setattr(upgrades, "MIGRATIONS_FOLDER", folder)
    monkeypatch.setattr(upgrades, "SCHEMA_REVISION", 2)
    return path


@pytest.fixture
def first_catalog(tmp_path: Path) -> Path:
    """The folder of a catalog as the first release made it."""
    folder = tmp_path / "memory"
    folder.mkdir()
    SqliteCatalog.create(folder, EXAMPLE_INFO).close()
    return folder


def columns(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "catalog.sqlite")
    try:
        return [row[1] for row in connection.execute("PRAGMA table_info(segments)")]
    finally:
        connection.close()


def test_migrations_make_the_tables_that_the_code_describes() -> None:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(upgrades.empty_database())
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as connected:
        differences = compare_metadata(MigrationContext.configure(connected), schema.metadata)
    ours = {table.name for table in schema.metadata.tables.values()}
    unexpected = [
        difference
        for difference in differences
        if not (difference[0] == "remove_table" and difference[1].name.startswith(schema.WORD_INDEX))
    ]
    assert unexpected == []
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert ours < names
    statements = {row[0] for row in connection.execute("SELECT sql FROM sqlite_schema")}
    assert set(schema.WORD_INDEX_DDL) <= statements
    connection.close()


def test_the_newest_migration_is_the_revision_of_the_code() -> None:
    versions = sorted(path.name for path in (upgrades.MIGRATIONS_FOLDER / "versions").glob("r*.py"))
    assert versions[-1].startswith(f"r{schema.SCHEMA_REVISION:04d}_")


def test_an_older_schema_is_migrated_when_opened_for_writing(first_catalog: Path, later_release: Path) -> None:
    with pytest.raises(SchemaVersionError, match="open it once for writing"):
        SqliteCatalog.open(first_catalog, read_only=True)
    assert "note" not in columns(first_catalog)
    SqliteCatalog.open(first_catalog).close()
    assert "note" in columns(first_catalog)
    SqliteCatalog.open(first_catalog, read_only=True).close()


def test_a_failed_migration_changes_nothing(first_catalog: Path, later_release: Path) -> None:
    later_release.write_text(SECOND.format(then='op.execute("SELECT * FROM no_such_table")'))
    with pytest.raises(CorruptionError):
        SqliteCatalog.open(first_catalog).state()
    assert "note" not in columns(first_catalog)
    later_release.write_text(SECOND.format(then="pass"))
    SqliteCatalog.open(first_catalog).close()
    assert "note" in columns(first_catalog)


def test_a_newer_schema_asks_for_a_newer_release(tmp_path: Path) -> None:
    SqliteCatalog.create(tmp_path, EXAMPLE_INFO).close()
    connection = sqlite3.connect(tmp_path / "catalog.sqlite")
    connection.execute("PRAGMA user_version = 7")
    connection.execute("UPDATE alembic_version SET version_num = '0007'")
    connection.commit()
    connection.close()
    for read_only in (True, False):
        with pytest.raises(SchemaVersionError, match="upgrade megacontext"):
            SqliteCatalog.open(tmp_path, read_only=read_only)


def test_a_revision_that_contradicts_itself_is_damage(tmp_path: Path) -> None:
    SqliteCatalog.create(tmp_path, EXAMPLE_INFO).close()
    connection = sqlite3.connect(tmp_path / "catalog.sqlite")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(CorruptionError, match="schema 7"):
        SqliteCatalog.open(tmp_path).state()


def test_create_and_open_where_they_must_not(tmp_path: Path) -> None:
    with pytest.raises(MemoryNotFoundError):
        SqliteCatalog.open(tmp_path)
    with pytest.raises(MemoryNotFoundError):
        SqliteCatalog.create(tmp_path / "no folder", EXAMPLE_INFO)
    SqliteCatalog.create(tmp_path, EXAMPLE_INFO).close()
    with pytest.raises(MemoryExistsError):
        SqliteCatalog.create(tmp_path, EXAMPLE_INFO)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\x00" + bytes(5000)])
def test_something_else_in_its_place_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(content)
    with pytest.raises(CorruptionError, match="catalog"):
        SqliteCatalog.open(tmp_path)


def test_another_database_is_not_taken_for_a_catalog(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "catalog.sqlite")
    connection.execute("CREATE TABLE sources (x)")
    connection.close()
    with pytest.raises(CorruptionError, match="not a catalog"):
        SqliteCatalog.open(tmp_path)
