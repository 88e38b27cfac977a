"""Starting and ending runs of W&B: what is recorded, how long is waited, and what happens where that fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning_pocket.errors import PocketError

Mode = Literal["auto", "online", "offline", "disabled"]
OnFailure = Literal["offline", "stop", "disabled"]

_DATA = "WANDB_DATA_DIR"
#: How often W&B writes what it was given into the run folder, in seconds: what a killed process may lose.
_FLUSH_S = 1.0
#: What ``WANDB_MODE`` may say, by its old names too.
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


class WandbSession:
    """The W&B side of one command.

    Args:
        folder: Folder ``wandb`` of the run.
        mode: See :class:`WandbRun`.
        on_failure: See :class:`WandbRun`.
        timeout_s: Longest wait as the run starts, in seconds.
        upload_s: Longest wait as it ends, in seconds; 0 has no limit.
    """

    def __init__(self, folder: Path, mode: Mode, on_failure: OnFailure, timeout_s: float, upload_s: float) -> None:
        self._folder = folder
        self._mode = mode
        self._on_failure = on_failure
        self._timeout_s = timeout_s
        self._upload_s = upload_s
        self._reason = ""
        self._told: set[str] = set()
        self._data_before: str | None = None

    def begin(self, arguments: Mapping[str, Any]) -> Any:
        """Start a run, and where that fails do what the user chose.

        Args:
            arguments: Arguments of ``wandb.init`` that say what the run is.

        Returns:
            The W&B run.

        Raises:
            PocketError: If it cannot be started, and the user does not want to go on without.
        """
        import wandb

        said = os.environ.get("WANDB_MODE") or None
        if said is not None and said not in _MODES:
            raise PocketError(f"WANDB_MODE: found {said!r}; expected online, offline or disabled.")
        self._data_before = os.environ.get(_DATA)
        if self._data_before is None:  # copies of what is to be uploaded belong to the run, not to the user's home
            os.environ[_DATA] = str(self._folder)
        self._set_up()
        mode = self._resolve_mode()
        earlier = set(self._folder.glob("*run-*"))
        try:
            try:
                return self._start(arguments, mode)
            except wandb.Error as error:
                self._clear(earlier)
                if mode != "online" or self._on_failure == "stop":
                    raise
                self._reason = _first_line(error)
                self._set_up()
                return self._start(arguments, self._on_failure)
        except wandb.Error as error:
            self._restore()
            raise PocketError(
                f"W&B: {_first_line(error)}. Mend it, or keep the run on this machine with `mode: offline`."
            ) from error

    def _clear(self, earlier: set[Path]) -> None:
        """Remove what is left of a start that failed: its folder, and the id that would be in use."""
        import wandb

        wandb.teardown()
        for left in set(self._folder.glob("*run-*")) - earlier:
            shutil.rmtree(left, ignore_errors=True)

    def describe(self, run: Any) -> str:
        """Return in one line where a run is, and why it is not where it should be.

        Args:
            run: The W&B run.
        """
        why = f"{self._reason}; " if self._reason else ""
        if run.disabled:
            return f"W&B: {why}disabled, the run is not recorded there."
        if run.offline:
            return f"W&B: {why}kept offline; `wandb sync {self._folder}/offline-run-*` uploads it."
        return f"W&B: {run.url}"

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Let training go on where W&B fails, and say so once, unless the user wants to stop.

        Args:
            what: What is tried, for the message.

        Raises:
            PocketError: If it fails and the user wants to stop.
        """
        try:
            yield
        except Exception as error:  # its client fails in many ways, validation errors and broken pipes among them
            message = f"W&B: could not {what} ({_first_line(error)})"
            if self._on_failure == "stop":
                raise PocketError(f"{message}. Mend it, or let the run go on with `on_failure: offline`.") from error
            if message not in self._told:
                self._told.add(message)
                _say(f"{message}; the run goes on")

    def finish(self, run: Any, exit_code: int) -> None:
        """End a run.

        Args:
            run: The W&B run.
            exit_code: 0 where the command succeeded.
        """
        offline, folder, began = run.offline, Path(run.dir).parent, time.monotonic()
        try:
            with self.guarded("end the run"):
                run.finish(exit_code=exit_code)
        finally:
            self._restore()
        if not offline and 0 < self._upload_s <= time.monotonic() - began:
            left = f"`wandb sync --include-online {folder}` uploads the rest"
            _say(f"W&B: not all was uploaded within {self._upload_s:g} s; {left}")
        if offline and not exit_code:  # what W&B logs of itself names folders of this machine
            shutil.rmtree(folder / "logs", ignore_errors=True)
            for link in self._folder.glob("debug*.log"):
                link.unlink()

    def _restore(self) -> None:
        if self._data_before is None:
            os.environ.pop(_DATA, None)

    def _resolve_mode(self) -> str:
        import wandb

        said = os.environ.get("WANDB_MODE")
        if self._mode != "auto" or said:
            return _MODES[said] if self._mode == "auto" and said else self._mode
        if wandb.login(prompt=False, verify=False):
            return "online"
        self._reason = "not logged in (`wandb login`)"
        return "offline"

    def _set_up(self) -> None:
        """Keep W&B from printing and from asking who is logged in, which takes seconds without a network."""
        import wandb

        wandb.setup(wandb.Settings(show_info=False, x_disable_viewer=True))

    def _start(self, arguments: Mapping[str, Any], mode: str) -> Any:
        """Start a run that records nothing of the machine that it does not need.

        W&B by itself records the host, the user, the command, the repository's address with its password, the
        installed packages with the addresses that they came from, and what is printed.
        """
        import wandb

        settings: dict[str, Any] = {
            "silent": True,
            "host": "",
            "init_timeout": self._timeout_s,
            "finish_timeout": self._upload_s,
            "disable_git": True,
            "disable_code": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
            "x_transaction_log_flush_interval": _FLUSH_S,
        }
        if "WANDB_CONSOLE" not in os.environ:
            settings["console"] = "off"
        settings |= {"mode": mode, "reinit": "finish_previous"}
        return wandb.init(**arguments, settings=wandb.Settings(**settings))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (warnings of W&B itself are silenced)


def _first_line(error: Exception) -> str:
    """Return what an error says, in one line of moderate length, the cause rather than how often it was tried."""
    said = " ".join(str(error).split()).rpartition("while retrying: ")[2]
    return said[:300].rstrip(".") or type(error).__name__
