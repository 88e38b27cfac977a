"""Runs ``pocket`` commands one after the other in one process: the argument is a JSON list of their arguments."""

import json
import sys

from lightning_pocket.cli import main

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        main(arguments)
