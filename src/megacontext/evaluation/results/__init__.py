"""What an evaluation found: estimates with intervals, tables, the report."""
