"""What a terminal and a log show while something is trained: numbers, widths, ends."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from progress_child import LONG_LINE
from pytorch_lightning import LightningModule, Trainer
from terminal_screen import run_in_terminal
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.callbacks import PeakMemory, StepTime, TerminalProgress
from lightning_pocket.callbacks.run_clock import RunClock
from lightning_pocket.callbacks.training_status import Progress, count_items
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError

BATCH_S, ITEMS = 2.0, 4


class Timed(LightningModule):
    """Takes exact times of a clock that it moves itself."""

    score = "val/dice"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.now = 0.0

    @override
    def training_step(self, batch, index):
        self.now += BATCH_S
        return 0 * self.layer(batch).mean() + index + 1

    @override
    def validation_step(self, *_):
        self.now += 3.0

    @override
    def on_validation_epoch_end(self):
        self.log("val/dice", 0.25 * (self.current_epoch + 1))

    @override
    def test_step(self, *_):
        self.now += 20.0

    @override
    def predict_step(self, *_):
        self.now += 0.5

    @override
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(batches, items=ITEMS):
    return DataLoader(torch.ones(batches * items, 1), batch_size=items)


@pytest.fixture
def timed(monkeypatch):
    """A module, and a trainer whose progress goes by the module's clock; every status becomes a line."""
    module = Timed()
    monkeypatch.setattr("lightning_pocket.callbacks.terminal_progress.RunClock", lambda: RunClock(lambda: module.now))
    progress = TerminalProgress(line_every_s=1e-9)
    progress._progress = Progress(clock=RunClock(lambda: module.now))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=1,
        callbacks=[progress],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    return module, trainer


def test_every_figure_of_a_training_in_closed_form(timed, capsys):
    module, trainer = timed
    capsys.readouterr()
    trainer.fit(module, loader(3), loader(2, items=1))
    # Of 2 epochs of 3 batches of 2 s and 2 validations of 2 x 3 s the very first batch is not measured.
    assert (
        capsys.readouterr().err.splitlines()[-18:]
        == [
            "trying validation: 0/1 batches",
            "epoch 1/2: 0/3 batches",
            "epoch 1/2: 1/3 batches, loss 1.0000",
            "epoch 1/2: 2/3 batches, loss 2.0000, 2.00 items/s, over 8 s left",
            "epoch 1/2, validating: 0/2 batches, over 6 s left",
            "epoch 1/2, validating: 1/2 batches, 15 s left",
            "epoch 1/2: 3/3 batches, loss 3.0000, val/dice 0.2500, 2.00 items/s, 12 s left",
            "epoch 2/2: 0/3 batches, val/dice 0.2500, 2.00 items/s, 12 s left",
            "epoch 2/2: 1/3 batches, loss 1.0000, val/dice 0.2500, 2.00 items/s, 10 s left",
            "epoch 2/2: 2/3 batches, loss 2.0000, val/dice 0.2500, 2.00 items/s, 8 s left",
            "epoch 2/2, validating: 0/2 batches, val/dice 0.2500, 6 s left",
            "epoch 2/2, validating: 1/2 batches, val/dice 0.2500, 3 s left",
            "epoch 2/2: 3/3 batches, loss 3.0000, val/dice 0.5000, 2.00 items/s, 0 s left",
        ][-18:]
    )


def test_the_loss_is_that_of_a_batch_where_gradients_are_accumulated(timed, capsys):
    module, trainer = timed
    trainer.accumulate_grad_batches = 2
    trainer.fit(module, loader(4))
    losses = [line.partition("loss ")[2][:6] for line in capsys.readouterr().err.splitlines() if "loss " in line]
    assert losses == ["1.0000", "2.0000", "3.0000", "4.0000"] * 2


@pytest.mark.parametrize(
    ("command", "stage", "speed", "each_s"),
    [
        ("validate", "validating", "0.33 items/s", 3),
        ("test", "testing", "3.00 items/min", 20),
        ("predict", "predicting", "2.00 items/s", 0.5),
    ],
)
def test_every_figure_of_an_evaluation_in_closed_form(timed, capsys, command, stage, speed, each_s):
    module, trainer = timed
    options = {} if command == "predict" else {"verbose": False}
    getattr(trainer, command)(module, loader(4, items=1), **options)
    left = [f"{each_s * batches:.0f} s left" for batches in (2, 1)]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(stage)] == [
        f"{stage}: 0/4 batches",
        f"{stage}: 1/4 batches",
        f"{stage}: 2/4 batches, {speed}, {left[0].replace('60 s', '1 min')}",
        f"{stage}: 3/4 batches, {speed}, {left[1]}",
    ]


@pytest.mark.parametrize(
    ("batch", "items"),
    [
        ({"image": torch.zeros(3, 1), "subject": ["a", "", "b"]}, 2),
        ({"image": torch.zeros(3, 1)}, 3),
        ([torch.zeros(5, 1), torch.zeros(5)], 5),
        (torch.zeros(4, 2), 4),
        ("unknown", 1),
    ],
)
def test_items_of_a_batch(batch, items):
    assert count_items(batch) == items


@pytest.mark.parametrize("setting", [{"refresh_hz": 0}, {"refresh_hz": 1000}, {"line_every_s": 0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(PocketError, match=next(iter(setting))):
        TerminalProgress(**setting)


def test_only_the_first_process_shows_anything(timed, capsys, monkeypatch):
    module, trainer = timed
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    capsys.readouterr()
    trainer.test(module, loader(3), verbose=False)
    assert "testing" not in capsys.readouterr().err


def test_the_latest_steps_are_those_of_the_step_time():
    step = StepTime(warmup=1)
    assert step.recent_ms() is None
    step.step_ms = [1.0] * 100 + [5.0] * 11 + [7.0] * 9
    assert step.recent_ms() == 5.0

    class Event:
        def __init__(self, at, reached=True):
            self.at, self.reached = at, reached

        def query(self):
            return self.reached

        def elapsed_time(self, end):
            return end.at - self.at

    # On CUDA: one to warm up, two that are done, one that still runs, one that has only begun.
    times = [(0, 90), (100, 103), (110, 115), (120, 190), (200, 0)]
    step._events = [(Event(start), Event(end, reached=end != 190)) for start, end in times]
    step._seen, step.step_ms = 4, []
    assert step.recent_ms() == pytest.approx(4.0)


def test_memory_is_that_of_the_stage_and_stays_after_it(monkeypatch):
    peaks = iter([{"peak_rss_mib": 100.0}, {"peak_rss_mib": 90.0}, {"peak_rss_mib": 80.0}, {"peak_rss_mib": 70.0}])
    monkeypatch.setattr("lightning_pocket.callbacks.peak_memory.read_peaks", lambda _: next(peaks))
    memory, module = PeakMemory(), Timed()
    assert memory.so_far(module) == {}
    memory.on_test_start(None, module)
    assert memory.so_far(module) == {"peak_rss_mib": 100.0}
    memory._pause(module)
    memory._continue("test", module)
    assert memory.so_far(module) == {"peak_rss_mib": 90.0}
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    memory._log("test", module)
    assert memory.so_far(module) == {"peak_rss_mib": 90.0}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("width", "end", "color"), [(60, "crash", True), (80, "Ctrl-C", True), (120, "the end", False)]
)
def test_a_terminal_is_left_usable(width, end, color):
    session = run_in_terminal(
        "progress_child:train",
        [end, "2000" if end == "Ctrl-C" else "3"],
        width,
        {} if color else {"NO_COLOR": "1"},
        interrupt_at="epoch 2/" if end == "Ctrl-C" else None,
    )
    assert (session.status == 0) is (end == "the end")
    frames = session.frames
    assert any(frame.hidden for frame in frames)  # else the next line shows nothing
    assert not session.last.hidden
    assert (re.search(rb"\x1b\[38;5;", session.written) is not None) is color
    shown = [row for frame in frames for row in frame.rows if re.match(r"epoch \d+/", row)]
    assert max(map(len, shown)) <= width
    assert any(re.match(r"epoch \d/\d+  [━╸╺ ]{8,} +\d+/10  ", row) for row in shown)
    assert any(re.search(r" [\d.]+ items/s", row) for frame in frames for row in frame.rows)

    rows = session.last.rows
    text = "\n".join(rows)
    assert LONG_LINE in "".join(rows)  # in one piece: the terminal alone breaks it
    unbroken = "".join(text.split())  # where a line breaks depends on the length of the path before the warning
    for said in ("<logged>", "UserWarning:<warned>", "<fromaworker>"):
        assert unbroken.count(said) == 1, text
    bars = [row for row in rows if re.match(r"epoch \d+/", row)]
    assert len(bars) == (0 if end == "the end" else 1)  # what was shown last is kept where it tells when it ended
    if bars:
        assert re.fullmatch(r"epoch 2/\d+(, validating)?  [━╸╺ ]+ \d+/\d+  .* left", bars[0]), bars
    else:
        assert next(row for row in reversed(rows) if row) == "the end"


@pytest.mark.e2e
def test_a_training_in_a_terminal_ends_with_commands_that_run(options, tmp_path, monkeypatch, capsys):
    shown = [option for option in options if "enable_progress_bar" not in option]
    monkeypatch.chdir(tmp_path)
    command = ["fit", *shown, "--run_dir=a run", "--progress.refresh_hz=30", "--trainer.max_epochs=4"]  # to be quoted
    session = run_in_terminal("lightning_pocket.cli:main", command, 80, {"NO_COLOR": "1"})
    assert session.status == 0
    patches = [row for frame in session.frames for row in frame.rows if "patches/s" in row]
    assert patches
    assert any(re.search(r"peak RSS [\d,]+ MiB", row) for row in patches)
    rows = session.last.rows
    assert not [row for row in rows if re.match(r"epoch \d+/", row)]
    following = [row.strip() for row in rows[rows.index("next:") + 1 :] if row]
    assert following == ["pocket test '--run_dir=a run'", "pocket report 'a run'"]
    for line in following:
        main(shlex.split(line)[1:])
    assert Path("a run", "report.html").is_file()
    captured = capsys.readouterr()
    assert "scores" in captured.out
    assert (
        Path("a run", "config.yaml").read_text(encoding="utf-8").count("progress") == 1
    )  # trainer.enable_progress_bar


@pytest.mark.e2e
def test_a_log_gets_plain_lines_and_none_when_asked(options, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = [option for option in options if "enable_progress_bar" not in option]
    main(["fit", *shown, "--trainer.max_epochs=2"])
    error = capsys.readouterr().err
    assert not {"\x1b", "\r"} & set(error)
    lines = [line for line in error.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    number = r"[\d.,]+"
    form = rf"epoch 2/2: (\d+)/\1 batches, loss {number}, val/dice {number}, {number} patches/s, {number} ms/step, "
    assert re.fullmatch(form + rf"peak RSS {number} MiB, 0 s left", lines[1]), lines[1]
    main(["fit", *options, "--trainer.max_epochs=2", "--fresh"])
    assert "epoch " not in capsys.readouterr().err
