"""The living tree, through ports only: ingest, append, read, search, quote, check and repair."""
