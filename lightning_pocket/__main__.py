"""``python -m lightning_pocket`` is ``pocket``."""

from lightning_pocket.cli import main

if __name__ == "__main__":
    main()
