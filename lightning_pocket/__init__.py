"""Train, compare, shrink and ship pocket-sized convolutional networks for medical images."""

__version__ = "0.1.0"
