"""One model build as a DuckDB file: written once, asked many times."""
