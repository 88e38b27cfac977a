"""Penalties that make kernels vanish or shrink while a network is trained, and how they are minimised; torch only."""

from .alpha_max import AlphaMax
from .complexity import Complexity
from .correlation import kernel_correlation
from .data_flow import DataFlow, trace
from .kernelwise_adam import KernelwiseAdam
from .layer import LayerPenalty
from .phases import PhasePlan, Phases
from .regularizer import KernelNumber, KernelSize, Regularizer
from .selection import LayerChoice, choose_layers, is_degenerate, make_penalties, table
from .sparsifier import Sparsifier

__all__ = [
    "AlphaMax",
    "Complexity",
    "DataFlow",
    "KernelNumber",
    "KernelSize",
    "KernelwiseAdam",
    "LayerChoice",
    "LayerPenalty",
    "PhasePlan",
    "Phases",
    "Regularizer",
    "Sparsifier",
    "choose_layers",
    "is_degenerate",
    "kernel_correlation",
    "make_penalties",
    "table",
    "trace",
]
