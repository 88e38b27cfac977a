"""`auto` measures, picks the fastest that is right, and leaves no trace."""

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from interruption import kill_after
from torch import Tensor, nn

from lightning_pocket.callbacks.choose_speed import _most_steps
from lightning_pocket.cli import main
from lightning_pocket.layers import LayerFactory, WidthSchedule
from lightning_pocket.networks import UNet
from lightning_pocket.segmenter import Segmenter, Settings
from lightning_pocket.speed import (
    Choice,
    Levers,
    Runner,
    WindowChooser,
    choose_for_training,
    measure,
    pick,
    training_candidates,
    untouched,
)
from lightning_pocket.speed import choice as choice_module
from lightning_pocket.speed.heap import can_keep_memory

PLAIN, LAST, KEEP = Levers(), Levers(channels_last=True), Levers(keep_memory=True)
CPU = torch.device("cpu")


# The choice


def test_the_fastest_is_picked_by_the_median_of_ratios_of_the_same_round() -> None:
    # The machine was three times slower in the second round: medians of seconds alone would prefer plain.
    times = {PLAIN: [1.0, 3.0, 1.0], LAST: [0.9, 2.4, 0.8], KEEP: [0.8, 2.7, 0.95]}
    found = pick(times, {}, "steps")
    assert found.levers == LAST
    assert [round(timing.ratio or 0, 4) for timing in found.timings] == [1.0, 1.25, 1.1111]
    assert found.record["chosen"] == ["channels_last"]
    assert found.record["measured"][1] == {"levers": "channels_last", "median_ms": 900.0, "times_plain": 1.25}
    assert "1.25 times as fast as plain" in str(found)
    assert Choice.earlier(json.loads(json.dumps(found.record))).levers == LAST


@pytest.mark.parametrize(("seconds", "expected"), [(0.98, PLAIN), (1.2, PLAIN), (0.96, LAST)])
def test_plain_is_kept_unless_another_is_three_percent_faster(seconds: float, expected: Levers) -> None:
    assert pick({PLAIN: [1.0], LAST: [seconds]}, {}, "steps").levers == expected


def test_what_cannot_be_chosen_says_why() -> None:
    def works(values: tuple[float, ...], seconds: float = 0.0) -> Callable[[], Callable[[], tuple[float, ...]]]:
        return lambda: lambda: (time.sleep(seconds), values)[1]

    def fails() -> Any:
        raise RuntimeError("no such kernel\nand more")

    half = Levers(bfloat16=True)
    candidates = {
        PLAIN: works((2.0, 5.0), 0.03),
        LAST: works((2.001, 5.01), 0.01),
        KEEP: fails,
        Levers(benchmark=True): works((2.0, 6.0)),
        half: works((2.2, 4.5)),
        half | LAST: works((2.0, float("nan"))),
    }
    found = measure(candidates, CPU, 2, "steps")
    notes = {str(timing.levers): timing.note for timing in found.timings}
    assert notes == {
        "plain": "",
        "channels_last": "",
        "bfloat16": "",
        "keep_memory": "failed: no such kernel",
        "benchmark": "computes 2, 6 instead of 2, 5",
        "channels_last + bfloat16": "computes 2, nan instead of 2, 5",
    }
    assert found.levers == half  # it sleeps least
    with pytest.raises(RuntimeError, match="no such kernel"):
        measure({PLAIN: fails}, CPU, 2, "steps")


def test_turns_are_taken_in_rounds_and_kept_memory_comes_last() -> None:
    order: list[Levers] = []

    def work(levers: Levers) -> Callable[[], Callable[[], tuple[float]]]:
        return lambda: lambda: (order.append(levers), (1.0,))[1]

    measure({levers: work(levers) for levers in (PLAIN, KEEP, LAST, KEEP | LAST)}, CPU, 2, "steps")
    assert order == [PLAIN, LAST] * 3 + [KEEP, KEEP | LAST] * 3


# No trace


def test_measuring_a_training_leaves_no_trace() -> None:
    torch.manual_seed(0)
    network = UNet(1, 2, depth=2, widths=WidthSchedule(base=4), layers=LayerFactory(dropout=0.3))
    optimizer = torch.optim.Adam(network.parameters())
    x = torch.randn(2, 1, 8, 8, 8)
    network(x).mean().backward()
    optimizer.step()
    network.heads.eval()

    def everything() -> list[Any]:
        tensors = [*network.parameters(), *network.buffers(), *(p.grad for p in network.parameters())]
        moments = [value for state in optimizer.state.values() for value in state.values()]
        return [
            *[(id(t), t.stride(), t.detach().clone()) for t in [*tensors, *moments] if t is not None],
            [module.training for module in network.modules()],
            (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        ]

    before = everything()
    calls: list[Levers] = []

    def loss(runner: Runner) -> Tensor:
        random.random(), np.random.rand()  # noqa: NPY002
        calls.append(runner.levers)
        return runner.outputs(x)[0].square().mean()

    candidates = training_candidates(CPU)
    found = choose_for_training(network, loss, torch.optim.Adam, candidates, rounds=2)
    assert sorted(map(str, calls)) == sorted(map(str, candidates * 3))
    assert not any(timing.note for timing in found.timings)
    for old, new in zip(before, everything(), strict=True):
        if isinstance(old, tuple) and isinstance(old[-1], Tensor):
            assert old[:2] == new[:2]
            assert torch.equal(old[2], new[2])
        else:
            assert old == new


def test_memory_is_not_kept_where_there_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    network = UNet(1, 2, depth=1, widths=WidthSchedule(base=2))
    x = torch.randn(1, 1, 4, 4, 4)
    monkeypatch.setattr("lightning_pocket.speed.heap._free_mib", lambda: [1e9, 3.0])
    found = choose_for_training(
        network, lambda runner: runner(x).square().mean(), torch.optim.Adam, training_candidates(CPU), rounds=1
    )
    assert not found.levers.keep_memory
    notes = [timing.note for timing in found.timings if timing.levers.keep_memory]
    assert len(notes) == (2 if can_keep_memory() else 0)
    assert all("MiB more, and 3 MiB are free" in note for note in notes)


def test_every_candidate_steps_from_the_same_weights() -> None:
    layer = nn.Linear(3, 3)
    layer.outputs = lambda x: [layer(x)]
    weights: list[Tensor] = []

    def loss(runner: Runner) -> Tensor:
        weights.append(layer.weight.detach().clone())
        return runner(torch.ones(1, 3)).square().sum()

    choose_for_training(layer, loss, lambda p: torch.optim.SGD(p, lr=1.0), [PLAIN, LAST], rounds=2)
    assert len(weights) == 6
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_an_error_inside_leaves_no_trace_either() -> None:
    layer = nn.BatchNorm1d(3)
    state = copy.deepcopy(layer.state_dict())

    def fail() -> None:
        with untouched(layer):
            layer(torch.rand(4, 3)).sum().backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), layer.state_dict().values(), strict=True))
    assert layer.weight.grad is None


# Windows


class Slow:
    """Predicts by doubling, and takes a time that depends on the levers, on a clock that it moves itself."""

    pauses: ClassVar = {PLAIN: 0.02, Levers(folded=True): 0.012, Levers(folded=True, channels_last=True): 0.004}

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        self.now = 0.0
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr("lightning_pocket.speed.windows.time", clock)

    def __call__(self, levers: Levers) -> Callable[[Tensor], Tensor]:
        def predict(crops: Tensor) -> Tensor:
            self.calls.append((str(levers), len(crops)))
            self.now += self.pauses[levers]
            return 2 * crops

        return predict


def test_windows_are_predicted_once_and_the_fastest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    chooser = WindowChooser(slow, list(slow.pauses), rounds=2)
    assert chooser.batches == 9
    for number in range(12):
        crops = torch.full((2, 1), float(number))
        assert torch.equal(chooser(crops), 2 * crops)
    assert torch.equal(chooser(torch.ones(1, 1)), torch.full((1, 1), 2.0))
    names = ["plain", "folded", "channels_last + folded"]
    assert slow.calls == [(name, 2) for name in names * 3] + [(names[2], 2)] * 3 + [(names[2], 1)]
    assert chooser.choice is not None
    assert chooser.choice.levers.names == ["channels_last", "folded"]
    assert chooser.batches == 0


def test_a_smaller_batch_tells_nothing_and_a_failing_way_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)

    def make(levers: Levers) -> Callable[[Tensor], Tensor]:
        if levers.channels_last:
            raise RuntimeError("no memory for another network")
        return slow(levers)

    chooser = WindowChooser(make, list(slow.pauses), rounds=1)
    for size in (2, 1, 2, 2, 2, 2, 2):
        assert len(chooser(torch.ones(size, 1))) == size
    assert [name for name, _ in slow.calls] == ["plain", "plain", "folded", "plain", "plain", "folded", "folded"]
    assert chooser.choice is not None
    assert chooser.choice.levers == Levers(folded=True)
    assert "no memory" in str(chooser.choice)


def test_a_choice_of_before_is_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    chooser = WindowChooser(slow, list(slow.pauses))
    assert chooser.batches == 12
    chooser.use(Choice(Levers(folded=True), "as chosen before"))
    chooser(torch.ones(1, 1))
    assert slow.calls == [("folded", 1)]


def test_the_segmenter_gives_the_same_labels_either_way(trained: Path, blobs: Path) -> None:
    checkpoint = trained / "checkpoints" / "last.ckpt"
    image = [blobs / "imagesTr" / "case_02.nii.gz"]
    plain = Segmenter(checkpoint, "cpu", Settings(overlap=0.9))
    auto = Segmenter(checkpoint, "cpu", Settings(overlap=0.9, speed="auto"))
    np.testing.assert_array_equal(auto.segment(image).label.array, plain.segment(image).label.array)
    assert auto.choice is not None
    assert len(auto.choice.timings) == 3
    assert plain.choice is None
    few = Segmenter(checkpoint, "cpu", Settings(overlap=0.0, speed="auto"))
    few.segment(image)
    assert few.choice is None  # too few windows to find out


def test_bfloat16_gives_nearly_the_same_labels(trained: Path, blobs: Path) -> None:
    checkpoint = trained / "checkpoints" / "last.ckpt"
    agreement, found = [], 0
    for index in range(4):
        image = [blobs / "imagesTr" / f"case_0{index}.nii.gz"]
        full, half = (
            Segmenter(checkpoint, "cpu", Settings(precision=precision, speed=speed)).segment(image).label.array
            for precision, speed in (("float32", "plain"), ("bfloat16", "auto"))
        )
        agreement.append((full == half).mean())
        found += int((full > 0).sum())
    assert found > 0
    assert min(agreement) > 0.995


# From the command line


def auto(*options: str, rounds: int = 1) -> list[str]:
    own = [f"--trainer.callbacks.rounds={rounds}", "--trainer.callbacks.max_share=1"]
    return ["--config=auto", *own, "--data.init_args.patches_per_epoch=24", *options]


def weights(run: Path) -> list[Tensor]:
    return list(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].values())


def manifest(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "manifest.json").read_text(encoding="utf-8")))


@pytest.mark.e2e
def test_a_run_that_measured_learns_the_same_to_the_last_bit(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice_module, "THRESHOLD", 1e9)
    monkeypatch.setattr(choice_module.pick, "__defaults__", (1e9,))  # plain is always kept
    delicate = ["--model.init_args.network.init_args.layers.dropout=0.2", "--trainer.max_epochs=1"]
    main(["fit", *options, "--data.init_args.patches_per_epoch=24", *delicate, f"--run_dir={tmp_path / 'plain'}"])
    main(["fit", *options, *auto(), *delicate])
    out = capsys.readouterr().out
    assert "speed: plain, nothing else was at least" in out
    assert "channels_last + keep_memory" in out
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / "plain"), weights(tmp_path / "run"), strict=True))
    record = manifest(tmp_path / "run")["speed"]
    assert record["chosen"] == []
    assert [row["levers"] for row in record["measured"]] == [str(levers) for levers in training_candidates(CPU)]


@pytest.mark.e2e
def test_a_run_that_continues_takes_its_choice_over(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = Choice(LAST, "as the test says")
    monkeypatch.setattr("lightning_pocket.callbacks.choose_speed.choose_for_training", lambda *_: chosen)
    kill_after(["fit", *options, *auto()])
    monkeypatch.setattr("lightning_pocket.callbacks.choose_speed.choose_for_training", None)  # not called again
    capsys.readouterr()
    main(["fit", *options, *auto()])
    assert "speed: channels_last, as chosen when the run began" in capsys.readouterr().out
    found = manifest(tmp_path / "run")
    assert found["finished"] is True
    assert found["speed"]["chosen"] == ["channels_last"]
    assert any(tensor.ndim == 5 and tensor.stride(1) == 1 for tensor in weights(tmp_path / "run"))


@pytest.mark.e2e
def test_short_runs_are_not_measured(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *options, "--config=auto"])
    assert (
        "speed: plain, as the settings say; not measured: it would take 24 steps, the run has"
        in capsys.readouterr().out
    )
    assert manifest(tmp_path / "run")["speed"]["chosen"] == []


def test_inference_records_its_choice_and_takes_it_over(
    trained: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", str(trained), f"--output={tmp_path / 'out'}", "--device=cpu", "--overlap=0.9"]
    images = [str(blobs / "imagesTr" / f"case_0{n}.nii.gz") for n in range(2)]
    main([*command, images[0]])
    assert "speed: " in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "infer.json").read_text(encoding="utf-8"))["speed"]
    assert (record["device"], record["precision"], len(record["measured"])) == ("cpu", "float32", 3)
    main([*command, *images])
    out = capsys.readouterr().out
    assert "already segmented" in out
    assert "speed: " not in out
    after = json.loads((tmp_path / "out" / "infer.json").read_text(encoding="utf-8"))["speed"]
    assert after == record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=auto", "--trainer.callbacks.rounds=0"], "ChooseSpeed.rounds: found 0"),
        (["--config=auto", "--trainer.callbacks.max_share=0"], "ChooseSpeed.max_share: found 0"),
        (["--config=checkpoint_activations", "--model.init_args.network.init_args.depth=0"], "network.depth: found 0"),
        (["--model.init_args.network.init_args.checkpoint_levels=9"], "checkpoint_levels: found 9, expected 0 to 3"),
        (["--model.init_args.channels_last=maybe"], "channels_last"),
    ],
)
def test_bad_values_are_one_line(
    options: list[str], fails: Callable[[list[str]], str], arguments: list[str], message: str
) -> None:
    found = fails(["fit", *options, *arguments])
    assert message in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "message"), [("--precision=float16", "this CPU does not compute in float16"), ("--speed=fast", "speed")]
)
def test_bad_values_of_inference_are_one_line(
    trained: Path, blobs: Path, tmp_path: Path, fails: Callable[[list[str]], str], option: str, message: str
) -> None:
    if "float16" in option and torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this CPU computes in float16")
    image = str(blobs / "imagesTr" / "case_00.nii.gz")
    found = fails(["infer", str(trained), image, f"--output={tmp_path / 'out'}", "--device=cpu", option])
    assert message in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_measured_where_plain_computation_gives_no_numbers(value: float) -> None:
    found = measure({PLAIN: lambda: lambda: (value,), LAST: lambda: lambda: (1.0,)}, CPU, 2, "steps")
    assert found.levers == PLAIN
    assert found.reason == f"not measured: the first batch gives {value}"


@pytest.mark.parametrize(
    ("epochs", "max_steps", "accumulate", "expected"),
    [(3, -1, 1, 30), (3, 5, 1, 5), (3, 5, 2, 10), (-1, 7, 1, 7), (-1, -1, 1, float("inf"))],
)
def test_the_length_of_a_run(epochs: int, max_steps: int, accumulate: int, expected: float) -> None:
    trainer = SimpleNamespace(
        max_epochs=epochs, max_steps=max_steps, accumulate_grad_batches=accumulate, num_training_batches=10
    )
    assert _most_steps(trainer) == expected
