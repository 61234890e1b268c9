"""Bringing a catalog's schema up to date: Alembic, in one transaction, on a connection of ours."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path

from megacontext.catalog.schema import APPLICATION_ID, SCHEMA_REVISION
from megacontext.errors import CorruptionError, SchemaVersionError

__all__ = ["MIGRATIONS_FOLDER", "empty_database", "require_schema", "schema_revision", "upgrade_schema"]

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"


def upgrade_schema(connection: sqlite3.Connection) -> None:
    """Run the missing migrations in one transaction; an empty database gets the whole schema."""
    # imported here: Alembic takes longer than opening a catalog, and an up-to-date one never needs it
    import alembic.command
    import alembic.config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None)
    connected = engine.connect()
    connected.begin()  # Alembic leaves a transaction alone that is there before it; SQLite's own begins below
    config.attributes["connection"] = connected
    connection.execute("BEGIN IMMEDIATE")
    try:
        alembic.command.upgrade(config, "head")
        connection.execute(f"PRAGMA user_version = {SCHEMA_REVISION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except DBAPIError as error:
        raise (error.orig or error) from error  # what our callers translate is what SQLite said
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connected.close()


@cache
def empty_database() -> bytes:
    """The file of a database that holds the whole schema and nothing else."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        upgrade_schema(connection)
        return connection.serialize()
    finally:
        connection.close()


def schema_revision(connection: sqlite3.Connection, name: str) -> int:
    """The revision that a database says it has; CorruptionError if it contradicts itself or is no catalog."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise CorruptionError(f"{name} is not a catalog of a memory, or its header is damaged; run 'megacontext check'")
    revision = int(connection.execute("PRAGMA user_version").fetchone()[0])
    recorded = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    if recorded != [f"{revision:04d}"]:
        inside = recorded[0] if len(recorded) == 1 else f"{len(recorded)} entries"
        raise CorruptionError(
            f"{name} says schema {revision} in its header and {inside} inside; run 'megacontext check --repair'"
        )
    return revision


def require_schema(revision: int, name: str, *, may_upgrade: bool) -> bool:
    """Whether the schema must be upgraded first; SchemaVersionError if this release cannot use it."""
    if revision > SCHEMA_REVISION:
        raise SchemaVersionError(
            f"{name} has schema {revision}, this release knows up to {SCHEMA_REVISION}; upgrade megacontext"
        )
    if revision < SCHEMA_REVISION and not may_upgrade:
        raise SchemaVersionError(
            f"{name} has schema {revision}, older than {SCHEMA_REVISION}; open it once for writing to migrate it"
        )
    return revision < SCHEMA_REVISION
