"""Conformance suites and in-memory doubles, shipped so that parts by other people can be tested as ours are."""
