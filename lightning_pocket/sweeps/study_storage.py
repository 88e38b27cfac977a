"""Where a study is kept: a journal file in its folder, or a database named by a URL whose password is never shown."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal._file import BaseJournalFileLock

#: Names the storage of every study, as the option does.
VARIABLE = "POCKET_SWEEP_STORAGE"
#: What may hold a password; processes that train are started without.
SECRETS = (VARIABLE, "PGPASSWORD", "MYSQL_PWD")
#: The default storage, in the folder of the study.
JOURNAL = "study.journal"
_PASSWORD = re.compile(r"(://[^/@:]*):.*@")
_PARAMETER = re.compile(r"([?&](?:password|sslpassword|sslkey)=)[^&#]*", re.IGNORECASE)
#: Take a lock that is held while the tables of a database are made, if it is free: processes that make them together
#: fail, or mark their version twice.
_TABLE_LOCKS = {
    "postgresql": "SELECT pg_try_advisory_lock(7061774)",
    "mysql": "SELECT GET_LOCK('pocket_sweep', 0)",
    "mariadb": "SELECT GET_LOCK('pocket_sweep', 0)",
}
#: Seconds to wait for that lock, and between two tries. Hundreds of workers may begin together.
_TABLES_S, _TRY_S = 300.0, 0.2


def storage_url(option: str | None) -> str | None:
    """Return the URL of the storage, None for the journal file.

    Args:
        option: ``--storage``; without it the environment decides. ``@FILE`` reads the URL from a file.

    Raises:
        PocketError: If the file cannot be read, or it or the option is empty.
    """
    given = os.environ.get(VARIABLE) or None if option is None else option
    if given is None or not given.startswith("@"):
        url = given
    else:
        try:
            url = Path(given[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PocketError(f"--storage {given}: the file cannot be read ({error}).") from error
    if url == "":
        raise PocketError(f"--storage {given}: is empty, expected a URL. Leave it out for a file in the folder.")
    return url


def redact(text: str) -> str:
    """Return a URL, or text with one, without its password."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def check_installed() -> None:
    """Refuse to go on without Optuna, which is an optional dependency.

    Raises:
        PocketError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise PocketError("pocket sweep needs Optuna: pip install 'lightning-pocket[sweep]'.") from error
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(url: str | None, folder: Path, grace_s: float) -> BaseStorage:
    """Open the storage of a study.

    Args:
        url: A database, as SQLAlchemy names it; None for the journal file.
        folder: Folder of the study, which holds the journal file.
        grace_s: Seconds without a sign of life after which a worker of a database is taken for dead.

    Raises:
        PocketError: If it cannot be used or reached.
    """
    check_installed()
    if url is None:
        return _open_journal(folder / JOURNAL)
    shown = redact(url)
    if "://" not in url:
        shown = re.sub(r".*@", "***@", url)
        raise PocketError(f"--storage {shown}: expected a URL, such as postgresql+psycopg://USER:PASSWORD@HOST/NAME.")
    if url.startswith("sqlite"):
        raise PocketError(
            f"--storage {shown}: SQLite may give one trial to several workers. Leave --storage out for the journal "
            "file, or name a PostgreSQL server."
        )
    from optuna.storages import RDBStorage

    from .database_options import engine_options

    interval = max(1, round(grace_s / 10))
    grace = max(interval + 1, round(grace_s))
    try:
        options = engine_options(url)
        with _tables_locked(url, options):
            return RDBStorage(url, options, heartbeat_interval=interval, grace_period=grace)
    except ImportError as error:
        raise PocketError(
            f"--storage {shown}: needs a driver that is not installed ({error}). For PostgreSQL: pip install "
            "'psycopg[binary]', and postgresql+psycopg:// in the URL."
        ) from error
    except Exception as error:  # each driver has errors of its own
        raise PocketError(f"--storage {shown}: cannot be reached ({_said(error, url)}).") from None


def lost_connection(error: BaseException) -> str:
    """Return what a driver says of a connection that it lost or cannot make, in one line without the password.

    Args:
        error: What the storage raised.

    Returns:
        The line; empty where the error is another one.
    """
    if "sqlalchemy" not in sys.modules:  # a journal file
        return ""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DBAPIError) and (
            found.connection_invalidated or isinstance(found, InterfaceError | OperationalError)
        ):
            return _said(found.orig or found, "")
        found = found.__cause__ or found.__context__
    return ""


@contextlib.contextmanager
def unreachable_is_one_line() -> Iterator[None]:
    """Turn the error of a database that has gone away into one line.

    Raises:
        PocketError: If the connection is lost.
    """
    try:
        yield
    except Exception as error:  # each driver has errors of its own
        said = lost_connection(error)
        if not said or isinstance(error, PocketError):
            raise
        raise PocketError(
            f"the database of the study does not answer ({said}). Nothing is lost: start the command again later."
        ) from None


@contextlib.contextmanager
def _tables_locked(url: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Let one process at a time make the tables of a database that has none."""
    import sqlalchemy

    lock = next((command for kind, command in _TABLE_LOCKS.items() if url.startswith(kind)), None)
    if lock is None:
        yield
        return
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options)
    with engine.connect() as connection:  # its end is that of the lock
        deadline = time.monotonic() + _TABLES_S
        while not connection.execute(sqlalchemy.text(lock)).scalar():
            if time.monotonic() > deadline:
                raise TimeoutError(f"another worker has been making its tables for {_TABLES_S:g} s")
            time.sleep(_TRY_S)
        yield


def _open_journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The other kind of lock is a symbolic link, which Windows refuses.
        lock = JournalFileOpenLock(str(path))
        backend = JournalFileBackend(str(path), lock_obj=lock)
        _mend(path, lock)
        return JournalStorage(backend)
    except (OSError, ValueError) as error:
        raise PocketError(f"{path}: cannot be used as the storage of a study ({error}).") from error


def _mend(path: Path, lock: BaseJournalFileLock) -> None:
    """Remove what a writer that was killed, or a full disk, has left of a line: it would spoil the next one."""
    if not _is_torn(path):
        return
    lock.acquire()
    try:
        if _is_torn(path):  # no other process is just writing it
            with path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_torn(path: Path) -> bool:
    """Whether the last line of a file has no end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def _said(error: Exception, url: str) -> str:
    """Return the first line of what a driver says, without the password."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    password = re.search(r"://[^/@:]*:(.*)@", url)
    hidden = said.replace(password[1], "***") if password and password[1] else said
    return redact(hidden)[:300]
