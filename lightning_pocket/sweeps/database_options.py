"""How the drivers of databases are told to give up on a server that does not answer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import make_url

#: Seconds that connecting to a server may take, and that it may be silent when it was asked something.
CONNECT_S, ANSWER_S = 10, 30
_MYSQL = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
_KNOWN: dict[str, dict[str, Any]] = {
    "psycopg2": {"connect_timeout": CONNECT_S},
    "pymysql": _MYSQL,
    "mysqldb": _MYSQL,
}


def engine_options(url: str) -> dict[str, Any]:
    """Return what SQLAlchemy is told besides the URL.

    Args:
        url: A database, as SQLAlchemy names it.

    Raises:
        SQLAlchemyError: If there is no such kind of database.
    """
    found: dict[str, Any] = {"pool_pre_ping": True}  # a connection that was dropped is replaced before it is used
    parsed = make_url(url)
    dialect = parsed.get_dialect()
    if dialect.driver != "psycopg":
        return found | {"connect_args": _KNOWN.get(dialect.driver, {})}
    from .impatient_connection import ImpatientConnection

    given, named = dialect().create_connect_args(parsed)
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_S, **named}
    return found | {"creator": lambda: ImpatientConnection.connect(*given, **arguments)}
