"""Exact reduction of trained networks: fewer kernels, smaller kernels, fewer layers, the same function."""

from .network import CompactClassifier, CompactNetwork, load_compact, save_compact

__all__ = ["CompactClassifier", "CompactNetwork", "load_compact", "save_compact"]
