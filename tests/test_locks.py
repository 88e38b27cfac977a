"""Locks: held once, by whom, and until when."""

import os
import socket
import time

from lightning_pocket.locks import FileLock


def test_a_lock_is_held_once_and_says_by_whom(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.holder().startswith(f"process {os.getpid()} on {socket.gethostname()} since ")
    first.release()
    assert not (tmp_path / "lock").exists()
    assert second.acquire()
    second.release()


def test_a_holder_that_has_not_yet_written_its_name_is_waited_for(tmp_path, monkeypatch):
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    written = (tmp_path / "lock").read_text()
    (tmp_path / "lock").write_text("")
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "lock").write_text(written))
    assert lock.holder().startswith(f"process {os.getpid()} on ")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    lock.release()
    assert lock.holder() == "another process"


def test_a_lock_file_that_was_deleted_while_it_was_waited_for_is_not_taken(tmp_path, monkeypatch):
    """The one that comes third must not get another file than the second."""
    import lightning_pocket.locks as locks

    path = tmp_path / "lock"
    lock, take = FileLock(path), locks._lock
    swapped = []

    def swap(descriptor):
        if not swapped:  # the holder deletes its file between the opening and the locking of this one
            swapped.append(path.unlink())
        take(descriptor)

    monkeypatch.setattr(locks, "_lock", swap)
    assert lock.acquire()
    assert not FileLock(path).acquire()
    lock.release()
