"""Runs ``pocket`` commands one after the other in one process: the argument is a JSON list of their arguments."""

import json
import sys

from lightning_pocket.cli import main


def run() -> None:
    for arguments in json.loads(sys.argv[1]):
        main(arguments)


if __name__ == "__main__":
    run()
