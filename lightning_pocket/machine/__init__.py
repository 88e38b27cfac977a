"""The machine: what it has, and what about it would spoil a training."""
