"""Checkpoints of expanded networks: from what was trained to what is deployed."""
