"""Augmentation of whole batches on the device they are on: needs torch alone, except to draw (``draw``)."""
