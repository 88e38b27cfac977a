"""A command that serves pages, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import lightning_pocket

ROOT = Path(lightning_pocket.__file__).parents[1]


class CommandServer:
    """A command that serves until it is told to end; it is started, and killed at the end of a ``with`` block.

    Attributes:
        process: The process.
        said: What it has printed until it was ready.
    """

    def __init__(self, *arguments, environment=None):
        command = [sys.executable, "-m", "lightning_pocket", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.said = ""
        while "Ctrl-C" not in self.said:
            line = self.process.stdout.readline().decode()
            assert line, self.said
            self.said += line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
