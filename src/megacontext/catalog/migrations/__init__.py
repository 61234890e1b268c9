"""Alembic migrations of the catalog, run by ``catalog.upgrades`` in one transaction."""
