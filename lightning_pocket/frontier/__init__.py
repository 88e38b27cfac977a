"""Accuracy against complexity: networks whose widths and kernel sizes were learned, beside those that were chosen."""
