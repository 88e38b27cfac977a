"""Processes of their own without the seconds in which each imports torch: forked from one that has imported it.

:class:`Started` is used like ``subprocess.Popen``: what it starts can be killed and interrupted, and has streams, a
folder and an environment of its own. The forking process is started on first use, ends with the one that started it,
and serves the processes that it has forked, too.
"""

import atexit
import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from lightning_pocket import launch

#: Variable with the socket of the forking process.
_ADDRESS = "POCKET_TESTS_FORK"
#: What a training imports.
TRAINING = ("lightning_pocket.commands.train",)


class Started:
    """A process that calls a function.

    Args:
        function: Its module and name, such as ``lightning_pocket.cli:main``, which takes no argument.
        arguments: Those of the command line, without the name of the program.
        stdin: A descriptor, or ``subprocess.PIPE``; without one there is nothing to read. A terminal controls it.
        stdout: A file; without one :meth:`communicate` returns what was written.
        stderr: The same.
        env: Variables, those of this process by default.
        imports: Modules that are imported before forking.
    """

    def __init__(
        self,
        function: str,
        arguments: Sequence[str],
        stdin: int | None = None,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str] | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        self.returncode: int | None = None
        self._files = [given or tempfile.TemporaryFile("w+b") for given in (stdout, stderr)]  # noqa: SIM115
        self.stdin: IO[bytes] | None = None
        if stdin == subprocess.PIPE:
            read, write = os.pipe()
            self.stdin = os.fdopen(write, "wb")
        else:
            read = os.open(os.devnull, os.O_RDONLY) if stdin is None else os.dup(stdin)
        request = {"function": function, "arguments": list(map(str, arguments)), "imports": list(imports)}
        request |= {"folder": str(Path.cwd()), "environment": dict(os.environ if env is None else env)}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_address())
        socket.send_fds(self._socket, [b"."], [read, *(file.fileno() for file in self._files)])
        os.close(read)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._socket.makefile("r", encoding="utf-8")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if self.returncode is None and selector.select(0):
                self.returncode = int(self._answers.readline())
                self._socket.close()
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("pocket", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def read(self) -> list[str]:
        """Return what has been written to both streams so far, where no files were given for them."""
        streams = [file.fileno() for file in self._files]
        return [os.pread(stream, os.fstat(stream).st_size, 0).decode() for stream in streams]

    def communicate(self, timeout: float = 120) -> list[str]:
        self.wait(timeout)
        return self.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_pocket(arguments: Sequence[str], **how: Any) -> Started:
    """Start a ``pocket`` that trains, or starts others that do."""
    return Started("started:_pocket", arguments, imports=TRAINING, **how)


def tied(function: str, imports: Sequence[str] = ()) -> Callable[..., Started]:
    """Return what stands for ``lightning_pocket.launch.start_tied`` with a function in the place of ``pocket``."""

    def start(arguments: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> Started:
        env = {**os.environ, **environment, launch._TIED: "1"}
        return Started(function, arguments, subprocess.PIPE, output, output, env, imports)

    return start


def _pocket() -> None:
    from in_process import in_this_process

    from lightning_pocket.cli import main

    with in_this_process(tied("lightning_pocket.cli:main", TRAINING)):
        main()


def _address() -> str:
    if _ADDRESS not in os.environ:
        folder = tempfile.mkdtemp(prefix="fork")
        address = str(Path(folder) / "socket")
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, address]
        # Not the files in which pytest catches output: Python believes for ever that it can seek in those.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        assert server.stdout is not None
        while b"ready" not in (line := server.stdout.readline()):
            assert line
        os.environ[_ADDRESS] = address
        atexit.register(_end, server, Path(address))
    return os.environ[_ADDRESS]


def _end(server: subprocess.Popen[bytes], address: Path) -> None:
    server.communicate()
    address.unlink(missing_ok=True)
    address.parent.rmdir()


class _Server:
    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.running: dict[int, socket.socket] = {}
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.wake = wake

    def serve(self) -> Callable[[], None]:
        """Return in each forked process, with the function that it is to call."""
        with selectors.DefaultSelector() as selector:
            for source in (self.listener, self.woken, 0):
                selector.register(source, selectors.EVENT_READ)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while True:
                for key, _ in selector.select():
                    if key.fd == 0:
                        self.end()
                    elif key.fd == self.woken:
                        self.tell()
                    elif (function := self.fork()) is not None:
                        return function

    def end(self) -> None:
        for process in self.running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        sys.exit()

    def tell(self) -> None:
        os.read(self.woken, 1000)
        for process in list(self.running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                with self.running.pop(process) as connection, contextlib.suppress(OSError):  # nobody may ask any more
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def fork(self) -> Callable[[], None] | None:
        connection, _ = self.listener.accept()
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("r", encoding="utf-8") as lines:
            line = lines.readline()
        if not line:  # who asked has been killed
            connection.close()
            return None
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        for needed in (*request["imports"], module):
            import_module(needed)
        process = os.fork()
        if process:
            for stream in streams:
                os.close(stream)
            self.running[process] = connection
            with contextlib.suppress(OSError):
                connection.sendall(f"{process}\n".encode())
            return None
        for opened in (self.listener, connection, *self.running.values()):
            opened.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        os.close(self.woken)
        os.close(self.wake)
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            sys.stdout.reconfigure(line_buffering=True)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        called = import_module(module)
        sys.argv = [str(called.__file__), *request["arguments"]]  # which Lightning starts again in further processes
        return getattr(called, name)


def _run(function: Callable[[], None]) -> None:
    """End like an interpreter that has called a function, without the second in which it would free its memory."""
    status = 0
    try:
        function()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # as interpreters do, and processes of multiprocessing: waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _run(_Server(sys.argv[1]).serve())
