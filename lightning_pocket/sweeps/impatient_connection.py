"""A connection to PostgreSQL that ends where the server no longer answers."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from psycopg import Connection, OperationalError

from . import database_options


class ImpatientConnection(Connection[Any]):
    """A connection that is closed, with an error, when the server is silent for too long.

    The system notices a machine that has gone, but not a server that hangs: its end of the connection stays open, and
    who has asked it something would wait without end.
    """

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer as every connection of psycopg does, but not for ever."""
        return super().wait(self._limited(gen), *args, **kwargs)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Pass on what a generator of psycopg waits for, until nothing has come for too long."""
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > database_options.ANSWER_S:
                    self.pgconn.finish()
                    raise OperationalError(f"the server has not answered for {database_options.ANSWER_S:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
