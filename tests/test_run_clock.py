"""Speed and the time that is left, on a clock that is moved by hand."""

import numpy as np
import pytest

from lightning_pocket.callbacks.run_clock import RunClock, SlidingMean, Work

BATCH_S, VALIDATION_S, BETWEEN_S = 2.0, 30.0, 5.0


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def simulate(epochs, batches, every=1, first_epoch=0, warm_up_s=60.0):
    """Run a training of known durations; yield after each batch the estimate, and the truth found by running on."""
    clock = Clock()
    run = RunClock(clock)
    moments = []
    for epoch in range(first_epoch, epochs):
        run.begin_epoch()
        clock.now += BETWEEN_S
        for batch in range(batches):
            run.begin_batch()
            clock.now += BATCH_S + (warm_up_s if not moments else 0.0)
            run.end_batch(items=3)
            left = Work(
                (epochs - epoch - 1) * batches + batches - batch - 1,
                sum((later + 1) % every == 0 for later in range(epoch, epochs)),
                epochs - epoch - 1,
            )
            moments.append((epoch, clock.now, run.left(left), run.items_per_s))
        if (epoch + 1) % every == 0:
            run.begin_validation()
            clock.now += VALIDATION_S
            run.end_validation()
    return [(epoch, estimate, clock.now - now, speed) for epoch, now, estimate, speed in moments]


@pytest.mark.parametrize(("every", "first_epoch"), [(1, 0), (2, 0), (1, 7), (2, 7)])
def test_what_is_left_is_what_it_takes_whether_or_not_the_run_continues(every, first_epoch):
    moments = simulate(epochs=12, batches=10, every=every, first_epoch=first_epoch)
    assert moments[0][1] is None  # only the first batch is known, and it is not like the others
    known = 0
    for epoch, estimate, truth, _ in moments[1:]:
        validated = any((earlier + 1) % every == 0 for earlier in range(first_epoch, epoch))
        assert estimate.is_complete == validated
        if validated:
            assert estimate.seconds == pytest.approx(truth)
            known += 1
        else:
            assert estimate.seconds < truth  # hence "over"
    assert known > 10


def test_the_speed_is_items_by_seconds_without_warm_up_and_validation():
    speeds = [speed for _, _, _, speed in simulate(epochs=3, batches=10)]
    assert speeds[0] is None
    assert speeds[1:] == pytest.approx([3 / BATCH_S] * (len(speeds) - 1))


def test_waiting_for_data_slows_the_speed_down():
    clock = Clock()
    run = RunClock(clock)
    run.begin_epoch()
    for _ in range(3):
        run.begin_batch()
        clock.now += 1.0
        run.end_batch(items=4)
        clock.now += 3.0  # the next batch is not ready
    assert run.items_per_s == pytest.approx(4 / 4.0)


def test_a_queue_that_delivers_in_bursts_shows_its_mean_speed():
    clock = Clock()
    run = RunClock(clock)
    run.begin_epoch()
    for batch in range(40):
        run.begin_batch()
        clock.now += 1.0
        run.end_batch(items=2)
        clock.now += 12.0 if batch % 10 == 9 else 0.0  # the queue is filled again
    run.begin_batch()
    clock.now += 1.0
    run.end_batch(items=2)
    assert run.items_per_s == pytest.approx(20 / 22.0, rel=0.15)


def test_the_first_validation_is_extrapolated_while_it_goes_on():
    clock = Clock()
    run = RunClock(clock)
    run.begin_epoch()
    for _ in range(2):
        run.begin_batch()
        clock.now += BATCH_S
        run.end_batch(1)
    assert not run.left(Work(batches=10, validations=2)).is_complete
    run.begin_validation()
    assert not run.left(Work(batches=10, validations=1, validated=0.0)).is_complete
    clock.now += 6.0  # a quarter: all of it takes 24 s
    estimate = run.left(Work(batches=10, validations=1, validated=0.25))
    assert estimate.is_complete
    assert estimate.seconds == pytest.approx(10 * BATCH_S + 24.0 + 18.0)


def test_a_sliding_mean_forgets_what_is_older_than_its_window():
    rng = np.random.default_rng(0)
    seconds, items = rng.uniform(0.1, 3.0, 200), rng.integers(1, 9, 200)
    mean = SlidingMean(10.0)
    assert mean.seconds is None
    assert mean.items_per_s is None
    for end in range(1, 201):
        mean.add(seconds[end - 1], int(items[end - 1]))
        # The shortest stretch of the latest durations that fills the window, found by trying all.
        start = max((s for s in range(end) if seconds[s:end].sum() >= 10.0), default=0)
        assert mean.seconds == pytest.approx(seconds[start:end].mean())
        assert mean.items_per_s == pytest.approx(items[start:end].sum() / seconds[start:end].sum())
