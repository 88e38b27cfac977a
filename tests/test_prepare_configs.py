"""Configs of `pocket prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Capture = pytest.CaptureFixture[str]


def test_a_config_of_prepare_is_found_by_name_alone(tmp_path: Path, fails: Callable[[list[str]], str]) -> None:
    message = fails(["prepare", str(tmp_path), "--config", "brats2021"])
    assert "--config brats2021: no such file" in message
    assert "Did you mean brats2020" in message
    (tmp_path / "mine.yaml").write_text("spacings: median\n")
    assert "spacings" in fails(["prepare", str(tmp_path), f"--config={tmp_path / 'mine.yaml'}"])
    (tmp_path / "mine.yaml").write_text("a: [\n")
    assert "mine.yaml: is not valid YAML" in fails(["prepare", str(tmp_path), f"--config={tmp_path / 'mine.yaml'}"])


# Real images under the names of the releases.
