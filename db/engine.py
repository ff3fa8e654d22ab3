"""Opening a build's file: read-only, shut off from other files and the network, bounded in memory."""

from pathlib import Path
from typing import Any

import duckdb
from duckdb_sqlalchemy import ConnectionWrapper
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from db.errors import AtlasError

_HEADER = 3 * 4096  # bytes before the first block
REBUILD = "Build it again with `python -m indexer build MODEL`."

# One configuration for every reader: within a process DuckDB refuses to open a file twice with different ones.
READ_ONLY_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
    "threads": 2,
    "memory_limit": "1GB",
    "allocator_flush_threshold": "8MB",  # of what queries freed, before the system gets it back; else 128 MB
}


def read_only_engine(path: Path) -> Engine:
    """An engine on one immutable file. Connects lazily: a bad file shows at the first statement."""
    url = URL.create("duckdb", database=str(path))
    # Left to itself the dialect would add its name to the configuration, and so exclude read_only_connection.
    return create_engine(url, creator=lambda: ConnectionWrapper(read_only_connection(path)))


def read_only_connection(path: Path) -> duckdb.DuckDBPyConnection:
    """A bare DuckDB connection with the same restrictions, for bulk reading as arrays."""
    return duckdb.connect(str(path), read_only=True, config=READ_ONLY_CONFIG)


def check_whole(engine: Engine, path: Path) -> None:
    """Refuse a file that is missing, no DuckDB file or shorter than the blocks it says it uses.

    DuckDB opens some truncated files and fails only when a query reaches the missing part.

    Raises:
        AtlasError: names the file and what is wrong.
    """
    if not path.is_file():
        raise AtlasError(f"{path} is not a file, so no catalogue can be read from it. {REBUILD}")
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(
                f"SELECT block_size * used_blocks + {_HEADER} FROM pragma_database_size()"
            ).scalar_one()
    except DBAPIError as error:
        raise AtlasError(f"{path} is not a readable catalogue ({reason(error)}). {REBUILD}") from error
    size = path.stat().st_size
    if size < found:
        raise AtlasError(f"{path} is cut short: {size:,} of {found:,} bytes are there. {REBUILD}")


def reason(error: DBAPIError) -> str:
    """What the database said, in one line."""
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0][:160]
