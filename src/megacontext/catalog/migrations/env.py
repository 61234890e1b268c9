"""Alembic's entry point: runs the migrations on the connection that ``catalog.upgrades`` gives it."""

from __future__ import annotations

from alembic import context

from megacontext.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
