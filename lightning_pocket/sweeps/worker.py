"""One process that works on a study: takes trials, runs them, and tells the storage what they came to."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.job_progress import JobProgress
from lightning_pocket.run_folder import LOCK
from lightning_pocket.studies.jobs import PAUSE_S, RunningJob, free_slot

from .claims import Claimed, Claims
from .measures import as_plain, measure_trial
from .outcome import remaining_s, show_duration, tally
from .pruning import PruningWatch
from .runs import TrialRuns
from .study import SweepStudy
from .study_storage import SECRETS
from .twins import Twin, find_twin

#: How often an idle process looks for trials that others have given back, in seconds.
_IDLE_S = 1.0
#: How long the training of a killed process may take to end, in seconds.
_ENDING_S = 20.0
_OUT_OF_MEMORY = ("out of memory", "memory ran out")

Identify = Callable[[TrialRuns], tuple[str, str]]


@dataclass
class _Work:
    """A trial that this process has taken.

    Args:
        claimed: The trial.
        runs: Its runs.
        identity: Hash of what it comes to.
        running: Its commands; None while it waits for a trial that is the same.
        watch: Looks after pruning, where the study has a pruner.
    """

    claimed: Claimed
    runs: TrialRuns
    identity: str
    running: RunningJob | None = None
    watch: PruningWatch | None = None


@dataclass
class Worker:
    """Works on a study until every trial has ended, or its time is over.

    Args:
        study: The study, which has begun.
        more: Options of ``pocket fit`` from the command line.
        environments: Variables of the processes of each trial that runs at a time; as many run as there are.
        progress: Where to show how far each trial is.
        identify: Returns the hash of what a trial comes to, and why it cannot be trained, where a sampler has drawn it.
        deadline: Of ``time.monotonic()``, after which no other trial is begun.
    """

    study: SweepStudy
    more: tuple[str, ...]
    environments: Sequence[Mapping[str, str]]
    progress: JobProgress
    identify: Identify
    deadline: float = float("inf")
    _claims: Claims = field(init=False)
    _works: list[_Work] = field(default_factory=list)
    _renewed: float = 0.0
    _next_look: float = 0.0
    _is_over: bool = False

    def __post_init__(self) -> None:
        self._claims = Claims(self.study)

    def run(self) -> None:
        """Do the work."""
        with _terminated_is_interrupted():
            try:
                while self._go_on():
                    for work in list(self._works):
                        self._look_after(work)
                    self._keep_alive()
                    time.sleep(PAUSE_S)
            except BaseException:
                RunningJob.stop([work.running for work in self._works if work.running])
                with contextlib.suppress(Exception):  # the storage may be what failed; then the leases end
                    for work in self._works:
                        self._claims.give_back(work.claimed)
                    self.study.refill()
                raise

    def _go_on(self) -> bool:
        """Take trials while there is room for them; return whether there is anything left to do."""
        over = time.monotonic() > self.deadline
        while not over and len(self._works) < len(self.environments):
            claimed = self._claim()
            if claimed is None:
                break
            self._take(claimed)
        return bool(self._works) or not (over or self._is_over)

    def _claim(self) -> Claimed | None:
        """Take a trial; where none waits, look now and then whether other processes have given some back."""
        if time.monotonic() < self._next_look:
            return None
        claimed = self._claims.claim()
        if claimed is None:
            self.study.refill()
            claimed = self._claims.claim()
        if claimed is None:
            self._is_over = tally(self.study).is_over
            self._next_look = time.monotonic() + _IDLE_S
        return claimed

    def _take(self, claimed: Claimed) -> None:
        shared = self.study.study.user_attrs["settings"]
        runs = TrialRuns(self.study.sweep, self.study.folder, claimed.slot, claimed.point, self.more, shared)
        work = _Work(claimed, runs, "")
        self._works.append(work)  # from here on it is given back if this process is interrupted
        self.progress.say(runs.name, self.study.sweep.space.show(claimed.point))
        if self.study.identities:
            work.identity, problem = self.study.identities[claimed.slot], ""
        else:
            work.identity, problem = self.identify(runs)
        self._claims.note(claimed, run=runs.path.relative_to(runs.folder).as_posix(), identity=work.identity)
        if problem:
            self._fail(work, problem)

    def _look_after(self, work: _Work) -> None:
        if work not in self._works:
            return
        if work.running is None:
            self._begin(work)
            return
        if work.watch is not None and not work.watch.pruned and work.watch.look():
            self.progress.say(work.runs.name, "is pruned")
            work.running.skip_rest()
        if work.running.poll():
            if self.progress.live:
                self.progress.show(work.runs.name, work.running.command, work.running.job.epochs)
            return
        self._finish(work, work.running)

    def _begin(self, work: _Work) -> None:
        """Start the commands of a trial, unless another one is or was the same."""
        twin = find_twin(self.study, work.claimed, work.identity)
        if twin is not None:
            if twin.has_ended:
                self._copy(work, twin)
            return
        _wait_for_end(work.runs)
        job = work.runs.job()
        commands = job.commands()
        if not commands:  # made by a process that was killed before it could say so
            self._measure(work)
            return
        if self.study.sweep.pruner is not None:
            work.watch = PruningWatch(work.runs.pruning, work.claimed.trial)
        made = [["pocket", *line] for line in work.runs.commands(everything=True)]
        self._claims.note(work.claimed, begun=True, commands=made)
        slot = free_slot([other.running for other in self._works if other.running])
        environment = {**self.environments[slot], **dict.fromkeys(SECRETS, "")}

        def say(line: str) -> None:
            self.progress.say(work.runs.name, line)

        work.running = RunningJob(job, slot, environment, say)

    def _finish(self, work: _Work, running: RunningJob) -> None:
        if running.failure:
            self._fail(work, running.failure)
        elif work.watch is not None and work.watch.pruned:
            self._claims.prune(work.claimed)
            self._end(work, "pruned")
        else:
            self._measure(work)

    def _measure(self, work: _Work) -> None:
        """Read what the runs came to, and end the trial with it."""
        sweep = self.study.sweep
        try:
            wanted = [objective.metric for objective in sweep.objectives]
            found = measure_trial(work.runs.runs, wanted, sweep.measured, sweep.checkpoint)
        except PocketError as error:
            self._fail(work, str(error))
            return
        self._claims.note(work.claimed, results=as_plain(found))
        values = [found[objective.metric].mean for objective in sweep.objectives]
        self._claims.complete(work.claimed, values)
        shown = ", ".join(f"{o.metric} {value:.4g}" for o, value in zip(sweep.objectives, values, strict=True))
        self._end(work, f"done: {shown}")

    def _copy(self, work: _Work, twin: Twin) -> None:
        """End a trial with the result of one that is the same."""
        self._claims.note(work.claimed, same_as=twin.slot, **twin.results)
        if twin.values is None:
            self._claims.prune(work.claimed)
        else:
            self._claims.complete(work.claimed, twin.values)
        self._end(work, f"comes to the same as trial {twin.slot}, whose result it takes")

    def _fail(self, work: _Work, reason: str) -> None:
        infeasible = self.study.sweep.infeasible_on_out_of_memory and any(said in reason for said in _OUT_OF_MEMORY)
        if infeasible:
            self._claims.note(work.claimed, infeasible=reason)
            self._claims.prune(work.claimed)
        else:
            self._claims.fail(work.claimed, reason)
        self._end(work, f"{'infeasible' if infeasible else 'failed'}: {reason}")

    def _end(self, work: _Work, said: str) -> None:
        self._works.remove(work)
        self._next_look = 0.0
        self.progress.say(work.runs.name, said)
        self.progress.drop(work.runs.name)
        count = tally(self.study)
        left = remaining_s(self.study, max(1, count.running + len(self._works)))
        estimate = f", about {show_duration(left)} left" if left else ""
        self.progress.say("study", f"{count.ended} of {count.total} trials have ended{estimate}")

    def _keep_alive(self) -> None:
        if time.monotonic() - self._renewed > self.study.leases.interval_s:
            self._renewed = time.monotonic()
            self._claims.renew([work.claimed for work in self._works])


def _wait_for_end(runs: TrialRuns) -> None:
    """Wait until the training of a killed process, which ends with it, has let go of the folders."""
    deadline = time.monotonic() + _ENDING_S
    for run in runs.runs:
        lock = FileLock(run / LOCK)
        while run.is_dir() and not lock.acquire() and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        lock.release()


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Treat SIGTERM, by which clusters and containers end processes, like Ctrl-C: trials are given back at once."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
