"""Settings without what must not leave the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "***"
HOME = "~"

#: Ends of names whose values are secrets: num_tokens and bypass are none, hub_token and PGPASSWORD are.
_ENDS = (
    r"(?:passw(?:or)?d|passphrase|secret|"
    r"(?<![a-z])(?:pass|pwd|auth|token|credentials?|(?:api|access|private|secret)_?key))"
)
_SETTING = re.compile(rf"{_ENDS}$", re.IGNORECASE)
#: Parts of the names of environment variables whose values are secrets.
_VARIABLE = re.compile(r"passw|_pwd|pass$|secret|token|credential|(api|access|private)_?key", re.IGNORECASE)
#: User and password in a URL; not the user of one whose password is hidden already.
_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?![^/\s@'\"]*:\*\*\*@)[^/\s@'\"]+@", re.IGNORECASE)
#: A secret on a command line or in the query of a URL: --db_password x, --hub.token=x, ?token=x.
_GIVEN = re.compile(
    rf"(?P<name>(?:--[\w.-]*?|(?<![\w-])[\w.]*?){_ENDS})(?P<sign>=| +)(?P<value>[^\s&'\"]+)",
    re.IGNORECASE,
)
#: Home folders of others, such as one that a container sees.
_HOMES = re.compile(r"(?<![\w.~-])/(?:home|Users)/[^/\s'\":]+(?=[/\s'\":]|$)")
#: Shorter values of variables are no secrets, and would be found everywhere.
_SHORTEST = 6


def redact(value: Any) -> Any:
    """Return a copy of settings that may be shown to others.

    Values of settings and environment variables that are named like secrets, logins in URLs and secrets in command
    lines become ``***``; home folders become ``~``.

    Args:
        value: Mappings, lists, text and numbers, as YAML and JSON hold them.
    """
    return _redact(value, _secrets(), _homes())


def _redact(value: Any, secrets: Sequence[str], homes: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if _is_secret(str(key), entry) else _redact(entry, secrets, homes)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(entry, secrets, homes) for entry in value]
    return _redact_text(value, secrets, homes) if isinstance(value, str) else value


def _is_secret(name: str, value: Any) -> bool:
    """Whether a setting is a secret; one that is not set is shown as such."""
    return isinstance(value, str | int) and not isinstance(value, bool) and bool(_SETTING.search(name))


def _redact_text(text: str, secrets: Sequence[str], homes: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _GIVEN.sub(_hide, _LOGIN.sub(rf"\g<scheme>{HIDDEN}@", text))
    for home in homes:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", HOME, text)
    return _HOMES.sub(HOME, text)


def _hide(found: re.Match[str]) -> str:
    """Hide the value of an option; in free text a word is none because another one precedes it."""
    is_option = found["sign"] == "=" or found["name"].startswith("--")
    return f"{found['name']}{found['sign']}{HIDDEN}" if is_option else found[0]


def _secrets() -> list[str]:
    """Return the secrets of the environment, the longest first: one may be a part of another."""
    found = {value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)


def _homes() -> list[str]:
    """Return the names of the user's home folder, the longest first; the root of the file system is none."""
    try:
        home = Path.home()
    except RuntimeError:  # a container whose user has no name
        return []
    found = {str(home), str(home.resolve())}
    return sorted((path for path in found if len(Path(path).parts) > 1), key=len, reverse=True)
