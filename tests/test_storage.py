"""Temporary names: no two writers share one, and what killed writers have left is told from what is being written."""

import os
import subprocess
import time

import pytest

from lightning_pocket import storage
from lightning_pocket.storage import partial_path, remove_partials, write_text


@pytest.fixture
def ended():
    """A number that no process has any more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_containers_with_equal_process_numbers_do_not_share_temporary_files(tmp_path, monkeypatch):
    target = tmp_path / "table.csv"
    first = partial_path(target)
    monkeypatch.setattr(storage, "_machine", lambda: "other123")
    assert partial_path(target) != first
    assert len({partial_path(target).name for _ in range(100)}) == 100
    assert partial_path(target).parent == tmp_path


def test_a_file_is_written_while_a_container_with_the_same_number_writes_it(tmp_path, monkeypatch):
    target = tmp_path / "table.csv"
    original = storage.Path.write_text

    def write(path, *arguments, **options):
        original(path, *arguments, **options)
        if not nested:
            nested.append(1)
            write_text(target, "other")

    nested = []
    monkeypatch.setattr(storage.Path, "write_text", write)
    write_text(target, "own")
    assert target.read_text() == "own"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_only_what_nobody_writes_any_more_is_removed(tmp_path, ended, monkeypatch):
    target = tmp_path / "case.nii.gz"
    own = partial_path(target)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: os.getppid())
        alive = partial_path(target)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended)
        dead = partial_path(target)
        patch.setattr(storage, "_machine", lambda: "other123")
        elsewhere, forgotten = partial_path(target), partial_path(target)
    for path in (own, alive, dead, elsewhere, forgotten):
        path.with_name(f"{path.name}.nii.gz").write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(forgotten.with_name(f"{forgotten.name}.nii.gz"), (long_ago, long_ago))
    remove_partials(tmp_path)
    expected = {f"{path.name}.nii.gz" for path in (alive, elsewhere)}
    assert {path.name for path in tmp_path.iterdir()} == expected
