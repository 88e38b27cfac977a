"""One process that works on a study: takes trials, runs them, and tells the storage what they came to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.durations import show_duration
from lightning_pocket.reports.job_progress import JobProgress
from lightning_pocket.studies.jobs import PAUSE_S, RunningJob, free_slot

from .claims import Claims
from .interrupts import Interrupts
from .measures import as_plain, measure_trial
from .outcome import remaining_s, tally
from .pruning import PruningWatch
from .report import show_measured
from .runs import TrialRuns
from .study import MOST_LOST, SweepStudy
from .study_storage import SECRETS, lost_connection
from .twins import Twin, find_twin
from .work import Work

#: How often an idle process looks for trials that others have given back, in seconds.
_IDLE_S = 5.0
#: How often to look whether what a trial waits for has ended, in seconds.
_WAITING_S = 1.0
_TAKEN_OVER = "was taken over by another worker, which took this one for dead"
_OUT_OF_MEMORY = ("out of memory", "memory ran out")

Identify = Callable[[TrialRuns], tuple[str, str]]


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
    _works: list[Work] = field(default_factory=list)
    _renewed: float = 0.0
    _next_look: float = 0.0
    _is_over: bool = False
    _away_since: float | None = None
    _interrupts: Interrupts = field(default_factory=Interrupts)

    def __post_init__(self) -> None:
        self._claims = Claims(self.study)

    def run(self) -> None:
        """Do the work.

        Raises:
            PocketError: If the database does not answer for as long as a silent worker may live.
        """
        with self._interrupts.watched():
            try:
                while self._step():
                    time.sleep(PAUSE_S)
            except BaseException:
                RunningJob.stop([work.running for work in self._works if work.running])
                with contextlib.suppress(Exception):  # the storage may be what failed; then the leases end
                    for work in self._works:
                        self._claims.give_back(work.claimed)
                    self._claims.give_back_astray()
                    self.study.refill()
                raise

    def _step(self) -> bool:
        """Do what is due; return whether anything is left to do.

        While a database is away, trainings go on, and everything that was not told to it is tried again.
        """
        try:
            self._keep_alive()  # first: what others have taken over meanwhile is theirs
            goes_on = self._go_on()
            for work in list(self._works):
                self._look_after(work)
        except Exception as error:  # each driver has errors of its own
            self._await(error)
            return True
        if self._away_since is not None:
            self.progress.say("study", "the database answers again")
            self._away_since = None
        return goes_on

    def _await(self, error: Exception) -> None:
        """Let a database that is away come back; any other error is raised again."""
        said, grace = lost_connection(error), self.study.leases.grace_s
        if not said:
            raise error
        if self._away_since is None:
            self._away_since = time.monotonic()
            self.progress.say("study", f"the database does not answer, trying for {grace:g} s: {said}")
        if time.monotonic() - self._away_since > grace:
            raise PocketError(
                f"{self.study.folder}: the database of the study has not answered for {grace:g} s ({said}). Nothing is "
                "lost: start the command again when it does."
            ) from None

    def _go_on(self) -> bool:
        """Take trials while there is room for them; return whether there is anything left to do."""
        over = self._is_late
        while not over and self._has_room and self._take_next():
            pass
        if over and not any(work.running for work in self._works):  # what they wait for is in other hands
            for work in list(self._works):
                self._claims.give_back(work.claimed)
                self._works.remove(work)
            self.study.refill()
        return bool(self._works) or not (over or self._is_over)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self.deadline

    @property
    def _has_room(self) -> bool:
        """Whether another trial may be taken: those that wait need no place, but a sampler learns nothing from them."""
        places = len(self.environments)
        most = self.study.slots if self.study.points else 2 * places
        return sum(not work.waits for work in self._works) < places and len(self._works) < most

    def _take_next(self) -> bool:
        """Take a trial; where none waits, look now and then whether other processes have given some back."""
        if time.monotonic() < self._next_look:
            return False
        with self._interrupts.held():  # a trial that is taken and not in the list would count as lost
            claimed = self._claims.claim()
            if claimed is None:
                self.study.refill()
                claimed = self._claims.claim()
            if claimed is not None:
                shared = self.study.study.user_attrs["settings"]
                sweep, folder = self.study.sweep, self.study.folder
                self._works.append(
                    Work(claimed, TrialRuns(sweep, folder, claimed.slot, claimed.point, self.more, shared))
                )
        if claimed is None:
            self._is_over = tally(self.study).is_over
            self._next_look = time.monotonic() + _IDLE_S
            return False
        lost = int(claimed.trial.user_attrs.get("lost", 0))
        again = f"; taken over from a worker that was lost ({lost} of at most {MOST_LOST} times)" if lost else ""
        self.progress.say(self._works[-1].runs.name, self.study.sweep.space.show(claimed.point) + again)
        return True

    def _identify(self, work: Work) -> None:
        """Find out what a trial comes to, and end it where `pocket fit` would refuse it."""
        identity, problem = (
            (self.study.identities[work.claimed.slot], "") if self.study.identities else self.identify(work.runs)
        )
        run = work.runs.path.relative_to(work.runs.folder).as_posix()
        self._claims.note(work.claimed, run=run, identity=identity)
        if problem:
            self._fail(work, problem)
        work.identity = identity

    def _look_after(self, work: Work) -> None:
        if work.identity is None:
            self._identify(work)
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

    def _begin(self, work: Work) -> None:
        """Start the commands of a trial, unless another one is or was the same, or its folder is in use."""
        if time.monotonic() < work.look_at:
            return
        work.look_at = time.monotonic() + _WAITING_S
        twin = find_twin(self.study, work.claimed, work.identity or "")
        if twin is not None and twin.has_ended:
            self._copy(work, twin)
            return
        is_full = sum(other.running is not None for other in self._works) >= len(self.environments)
        is_late = work.waits and self._is_late
        work.waits = twin is not None or is_full or is_late or self._is_in_use(work) or not self._is_first(work)
        if not work.waits:
            self._start(work)

    def _is_first(self, work: Work) -> bool:
        """Say that a trial is begun, unless one that is the same was begun by another process this very moment."""
        with self.study.exclusive():
            if find_twin(self.study, work.claimed, work.identity or "") is not None:
                return False
            self._claims.note(work.claimed, begun=True)
        return True

    def _is_in_use(self, work: Work) -> bool:
        """Whether another process trains in the folder: that of a silent worker that lives, or one about to end."""
        holder = work.holder()
        if holder and holder != work.said:
            self.progress.say(work.runs.name, f"waits: {holder} still trains in its folder")
            work.said = holder
        return bool(holder)

    def _start(self, work: Work) -> None:
        made = [["pocket", *line] for line in work.runs.commands(everything=True)]
        self._claims.note(work.claimed, commands=made)
        if self.study.sweep.pruner is not None:
            work.watch = PruningWatch(work.runs.pruning, work.claimed.trial)
            if work.watch.pruned:  # by a process that was killed before it could say so
                work.watch.look()
                self._end(work, "pruned", self._claims.prune(work.claimed))
                return
        job = work.runs.job()
        if not job.commands():  # likewise
            self._measure(work)
            return
        slot = free_slot([other.running for other in self._works if other.running])
        environment = {**self.environments[slot], **dict.fromkeys(SECRETS, "")}

        def say(line: str) -> None:
            self.progress.say(work.runs.name, line)

        work.running = RunningJob(job, slot, environment, say)

    def _finish(self, work: Work, running: RunningJob) -> None:
        if running.failure:
            self._fail(work, running.failure)
        elif work.watch is not None and work.watch.pruned:
            self._end(work, "pruned", self._claims.prune(work.claimed))
        else:
            self._measure(work)

    def _measure(self, work: Work) -> None:
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
        is_ours = self._claims.complete(work.claimed, values)
        shown = ", ".join(f"{name} {show_measured(found[name], name)}" for name in wanted)
        self._end(work, f"done: {shown}", is_ours)

    def _copy(self, work: Work, twin: Twin) -> None:
        """End a trial with the result of one that is the same."""
        self._claims.note(work.claimed, same_as=twin.slot, **twin.results)
        values, claims = twin.values, self._claims
        is_ours = claims.prune(work.claimed) if values is None else claims.complete(work.claimed, values)
        self._end(work, f"comes to the same as trial {twin.slot}, whose result it takes", is_ours)

    def _fail(self, work: Work, reason: str) -> None:
        infeasible = self.study.sweep.infeasible_on_out_of_memory and any(said in reason for said in _OUT_OF_MEMORY)
        is_ours = (self._claims.exclude if infeasible else self._claims.fail)(work.claimed, reason)
        self._end(work, f"{'infeasible' if infeasible else 'failed'}: {reason}", is_ours)

    def _end(self, work: Work, said: str, is_ours: bool) -> None:
        self._works.remove(work)
        self._next_look = 0.0
        for other in self._works:  # perhaps what it waits for
            other.look_at = 0.0
        self.progress.say(work.runs.name, said if is_ours else _TAKEN_OVER)
        self.progress.drop(work.runs.name)
        count = tally(self.study)
        left = remaining_s(self.study, max(1, count.running + len(self._works)))
        estimate = f", about {show_duration(left)} left" if left else ""
        self.progress.say("study", f"{count.ended} of {count.total} trials have ended{estimate}")

    def _keep_alive(self) -> None:
        """Renew the leases, and leave the trials alone that others have taken over."""
        if time.monotonic() - self._renewed <= self.study.leases.interval_s:
            return
        for work in list(self._works):
            if not self._claims.renew(work.claimed):
                RunningJob.stop([work.running] if work.running else [])
                self._end(work, _TAKEN_OVER, is_ours=False)
        self._renewed = time.monotonic()
