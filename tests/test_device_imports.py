"""Augmentation on the device imports little."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The maximum displacement is larger")  # slices have no room


def test_applying_needs_torch_alone():
    """So that benchmarks of the device run where only torch is installed."""
    code = (
        "import lightning_pocket.data.on_device.apply, sys; print({'torchio', 'pytorch_lightning'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == "set()"
