"""How a status looks: in words, in lines, and drawn at any width."""

import io
import itertools
import re

import pytest
from rich.console import Console

from lightning_pocket.reports import status as status_module
from lightning_pocket.reports.durations import show_duration
from lightning_pocket.reports.status import Status, flow
from lightning_pocket.reports.terminal import can_redraw

FIGURES = ("loss 0.4321", "val/dice 0.8123", "12.3 patches/s", "163 ms/step", "CUDA peak 12,345 MiB")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def draw(status, width, no_color=False):
    console = Console(
        file=Terminal(), width=width, force_terminal=True, color_system=None if no_color else "256", no_color=no_color
    )
    console.print(status)
    return console.file.getvalue()


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (599.9, "10 min"),
        (754, "13 min"),
        (3599, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (86399, "1 d 0 h"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert show_duration(seconds) == text


@pytest.mark.parametrize("width", range(20, 140, 7))
def test_flow_breaks_no_part_and_wastes_no_line(width):
    lines = flow(FIGURES, width)
    assert "  ".join(lines).split("  ") == list(FIGURES)
    assert all(len(line) <= width for line in lines)
    for line, following in itertools.pairwise(lines):
        assert len(f"{line}  {following.split('  ')[0]}") > width


@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.parametrize("done", [0, 1, 125, 250])
@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_nothing_is_wider_than_the_terminal_and_all_figures_are_there(width, done, no_color):
    drawn = draw(Status("epoch 3/125", done, 250, FIGURES, 11520.0, "over"), width, no_color)
    lines = plain(drawn).rstrip("\n").split("\n")
    assert max(map(len, lines)) <= width
    for part in ("epoch 3/125", f"{done}/250", "over 3 h 12 min left", *FIGURES):
        assert any(part in line for line in lines), part
    assert not no_color or "\x1b" not in drawn


@pytest.mark.parametrize("no_color", [False, True])
def test_the_bar_is_as_long_as_what_is_done(no_color):
    lengths = {}
    for done in (0, 25, 50, 75, 100):
        first = draw(Status("testing", done, 100), 80, no_color).split("\n")[0]
        done_part = plain(first) if no_color else "".join(re.findall(r"\x1b\[38;5;(?!237m)[\d;]*m([━╸]+)", first))
        lengths[done] = done_part.count("━") + done_part.count("╸") / 2
        assert len(plain(first)) == 80
    room = lengths[100]
    assert room >= 60
    assert lengths == {done: pytest.approx(done / 100 * room, abs=1) for done in lengths}


def test_two_lines_are_enough_at_80_columns():
    assert plain(draw(Status("epoch 3/125", 12, 250, FIGURES, 11520.0), 80)).count("\n") == 2


def test_without_a_total_there_is_no_bar():
    assert plain(draw(Status("epoch 3", 12, None, ("loss 0.1",)), 80)) == "epoch 3  12  loss 0.1\n"


def test_a_line_for_a_log():
    line = Status("epoch 3/125", 250, 250, FIGURES, 90.0, "up to").line()
    assert line == f"epoch 3/125: 250/250 batches, {', '.join(FIGURES)}, up to 1 min 30 s left"
    assert Status("testing", 0, 3).line() == "testing: 0/3 batches"


def test_the_time_left_runs_down_between_two_measurements(monkeypatch):
    status = Status("epoch 1/2", 1, 2, left_s=50.0, at_s=100.0)
    monkeypatch.setattr(status_module.time, "monotonic", lambda: 120.0)
    assert status.left == "30 s left"
    monkeypatch.setattr(status_module.time, "monotonic", lambda: 1000.0)
    assert status.left == "0 s left"


@pytest.mark.parametrize(("term", "redraws"), [("xterm", True), ("dumb", False), ("", True)])
def test_what_can_be_redrawn(monkeypatch, term, redraws):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert can_redraw(Terminal()) is redraws
    assert not can_redraw(io.StringIO())
