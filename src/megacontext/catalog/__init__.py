"""What is in a memory and where it came from: SQLAlchemy tables on SQLite, migrations, full-text index, checks."""
