"""A PostgreSQL server of the tests' own: the machine's programs, a temporary folder, no network but a socket in it."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from tests.server_process import ending_with_us

START_SECONDS = 60


def programs() -> Path | None:
    """The folder of initdb and postgres: Debian keeps them off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    every = [*found, *([Path(on_path)] if on_path else [])]
    return next((path.parent for path in reversed(every) if (path.parent / "postgres").exists()), None)


def unprivileged() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path, bin_folder: Path, user: str | None) -> None:
        self._folder, self._bin, self._user = folder, bin_folder, user
        self._process: subprocess.Popen[bytes] | None = None
        self._watched = ExitStack()

    @property
    def base(self) -> str:
        return f"host={self._folder} user=atlas"

    def url(self, database: str) -> str:
        return f"postgresql://atlas@/{database}?host={self._folder}"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data", "-k", self._folder, "-h", "", "-F"],
                user=self._user,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        self._watched.enter_context(ending_with_us(self._process))
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(f"{self.base} dbname=postgres", connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self._folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)  # fast shutdown
            self._process.wait(30)
        self._watched.close()

    def new_database(self, name: str) -> str:
        """The URL of an empty database."""
        with psycopg.connect(f"{self.base} dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


@contextmanager
def serving(bin_folder: Path) -> Iterator[Server]:
    """A fresh server; gone afterwards."""
    user = unprivileged()
    folder = Path(
        tempfile.mkdtemp(prefix="atlas-pg-", dir="/tmp")
    )  # socket paths are short, and pytest's folder private
    try:
        if user is not None:
            shutil.chown(folder, user)
        command = [str(bin_folder / "initdb"), "-D", str(folder / "data"), "-U", "atlas", "-A", "trust", "-E", "UTF8"]
        command += ["--no-sync", "--locale=C"]
        subprocess.run(command, user=user, check=True, capture_output=True, cwd=folder)
        server = Server(folder, bin_folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
