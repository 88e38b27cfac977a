"""Choose the levers of a training by measuring steps of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lightning_pocket.errors import PocketError

from .choice import Choice, Prepare, measure
from .heap import check_room
from .layout import lay_out_state
from .levers import Levers
from .runner import Runner
from .untouched import Snapshot, random_states_kept, untouched


def choose_for_training(
    network: nn.Module,
    loss: Callable[[Runner], Tensor],
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    candidates: Sequence[Levers],
    rounds: int = 5,
) -> Choice:
    """Measure training steps and pick the fastest levers; the network is left as it was, bit for bit.

    A step is the loss, its gradients, and a step of an optimizer of its own, each time from the same weights and random
    numbers. The combinations take turns, so that a machine that slows down slows all of them.

    Args:
        network: In training mode, on its device.
        loss: Gives the loss of a batch, with the network called through the runner.
        make_optimizer: Makes an optimizer of parameters.
        candidates: Plain first.
        rounds: Measured steps of each combination, besides one that is not counted.

    Returns:
        The choice; levers that are of the process, such as kept memory, are as the last step had them.
    """
    device = next(network.parameters()).device
    with untouched(network) as snapshot:
        runners = [Runner(network, levers) for levers in candidates]
        optimizer = make_optimizer(network.parameters())
        steps: dict[Levers, Prepare] = {
            runner.levers: partial(_prepare, runner, loss, optimizer, snapshot) for runner in runners
        }
        if not candidates[0].keep_memory:
            steps |= {levers: partial(_with_room, step) for levers, step in steps.items() if levers.keep_memory}
        return measure(steps, device, rounds, "training steps")


def _with_room(prepare: Prepare) -> Callable[[], Sequence[float]]:
    check_room()  # here plain computation has shown what it needs
    return prepare()


def _prepare(
    runner: Runner, loss: Callable[[Runner], Tensor], optimizer: Optimizer, snapshot: Snapshot
) -> Callable[[], tuple[float, float]]:
    snapshot.restore()
    runner.prepare()
    for state in optimizer.state.values():
        lay_out_state(state, runner.levers.channels_last)

    def step() -> tuple[float, float]:
        with random_states_kept():
            value = loss(runner)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            gradients = [p.grad for p in runner.network.parameters() if p.grad is not None]
            size = float(nn.utils.get_total_norm(gradients))
            optimizer.zero_grad()
            if runner.failure:
                raise PocketError(runner.failure)
            return float(value.detach()), size

    return step
