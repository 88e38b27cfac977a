"""Work on many cases in parallel processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing.connection import wait
from typing import TypeVar

import SimpleITK as sitk

from lightning_pocket.errors import PocketError

Task = TypeVar("Task")
Result = TypeVar("Result")
#: Shows how far some work is: called with what is done and how many times, it gives what is to be called after each.
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


def count_workers(workers: int | None, tasks: int) -> int:
    """Return how many processes to use.

    Args:
        workers: What the user asked for; None for one per available CPU core.
        tasks: Number of tasks; no more workers than these.

    Raises:
        PocketError: If ``workers`` is less than 1.
    """
    if workers is not None and workers < 1:
        raise PocketError(f"workers: is {workers}, expected at least 1.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores if workers is None else workers, tasks))


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, advance: Callable[[], None]
) -> list[Result]:
    """Apply a function to every task.

    Processes are spawned, since SimpleITK is not safe in threads nor after a fork; each uses one ITK thread. They end
    when this process is gone, even if it was killed.

    Args:
        function: A function of a module.
        tasks: Its arguments.
        workers: Number of processes; 1 works in this process.
        advance: Called after each finished task.

    Returns:
        The results in the order of the tasks.

    Raises:
        PocketError: If a process dies.
    """
    if workers == 1:
        results = []
        for task in tasks:
            results.append(function(task))
            advance()
        return results
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            future.result()
            advance()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise PocketError(
            "workers: a worker process died, probably for lack of memory; use fewer --workers. "
            "The same command continues where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
