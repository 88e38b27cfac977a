"""A PostgreSQL server on loopback for tests, from Debian's package or what is on the path; it ends with the test.

Run as a program, this file makes a server in a folder of its own, says where it listens, and waits for the end of its
standard input, which comes however the test ends. Then it stops the server and removes the folder.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USER = "pocket"
#: No server runs as root.
ACCOUNT = "postgres"
SETTINGS = {"listen_addresses": "127.0.0.1", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Server:
    port: int
    password: str

    def url(self, database: str, password: str | None = None) -> str:
        return f"postgresql+psycopg://{USER}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make an empty database, and return its URL."""
        import psycopg

        where = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": self.password, "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)


def binaries() -> Path | None:
    """Return the folder of the server's programs; Debian keeps them off the path."""
    found = [Path(name).resolve().parent for name in [shutil.which("initdb")] if name]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parts[-2]))
    needed = ("initdb", "postgres", "pg_isready")
    return next((folder for folder in found if all((folder / name).is_file() for name in needed)), None)


def obstacle() -> str:
    """Return why no server can be started here; nothing where one can."""
    if importlib.util.find_spec("psycopg") is None:
        return "needs psycopg: pip install 'lightning-pocket[postgresql]'"
    if os.name != "posix" or binaries() is None:
        return "needs the programs of a PostgreSQL server, such as Debian's package postgresql"
    if os.getuid() == 0 and not has_account():
        return f"needs the user {ACCOUNT}: PostgreSQL does not run as root"
    return ""


def has_account() -> bool:
    import pwd

    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Run a server that asks for a password."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        said = process.stdout.readline()
        if not said:
            raise RuntimeError("the PostgreSQL server did not start")
        yield Server(**json.loads(said))
        process.stdin.close()


def serve() -> None:
    """Make, run and remove a server; see the module."""
    folder = Path(tempfile.mkdtemp(prefix="pocket-postgresql-"))
    account = {}
    if os.getuid() == 0:
        shutil.chown(folder, ACCOUNT, ACCOUNT)
        account = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []}
    process = None
    try:
        server = Server(free_port(), secrets.token_hex(16))
        make(folder, server.password, account)
        process = start(folder, server.port, account)
        sys.stdout.write(json.dumps(vars(server)) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def make(folder: Path, password: str, account: dict) -> None:
    file = folder / "password"
    file.write_text(password, encoding="utf-8")
    options = [f"--username={USER}", f"--pwfile={file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    command = [binaries() / "initdb", f"--pgdata={folder / 'data'}", "--no-sync", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **account)
    file.unlink()


def start(folder: Path, port: int, account: dict) -> subprocess.Popen:
    settings = SETTINGS | {"port": port, "unix_socket_directories": folder}
    command = [binaries() / "postgres", "-D", folder / "data"]
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, **account)
    asks = [binaries() / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet"]
    deadline = time.monotonic() + 30
    while subprocess.run(asks, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError((folder / "log").read_text(encoding="utf-8", errors="replace"))
        time.sleep(0.05)
    return process


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


if __name__ == "__main__":
    serve()
