"""One estimate of the time left, and what is seen of it."""

from __future__ import annotations

import io
import sys
import types

import pytest
from rich.console import Console

from poise.core import bars
from poise.core.bars import Bars, Cells, Drawn, Lines, default_progress, drawn
from poise.core.progress import Forecast, Progress, clock


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def trained(forecast: Forecast, time: Time, epochs: int, seconds: float) -> None:
    """Epochs of cost 10 each, which take so many seconds."""
    for _ in range(epochs):
        forecast.begin(10)
        time.now += seconds
        forecast.at(1.0)
        forecast.end()


def test_nothing_is_foretold_before_anything_is_known() -> None:
    time = Time()
    forecast = Forecast(time)
    assert forecast.whole() is None
    forecast.stage("a", "training", 100)
    forecast.begin(10)
    assert forecast.left() is None
    time.now = 1.0
    forecast.at(0.5)
    assert forecast.left() is None, "a second is too little to tell"


def test_training_and_the_evaluation_after_it_are_one_estimate() -> None:
    time = Time()
    forecast = Forecast(time)
    forecast.expect("a (selected)", "evaluation", 50)
    forecast.stage("a", "training", 100)
    trained(forecast, time, 5, 4.0)
    assert forecast.left() == pytest.approx(0.4 * (50 + 50))
    assert forecast.whole() == pytest.approx((20 / 60, 40))
    trained(forecast, time, 5, 4.0)
    forecast.stage("a (selected)", "evaluation", 50)
    assert forecast.left() == pytest.approx(20)
    forecast.begin(50)
    time.now += 5  # the evaluation turns out twice as fast
    forecast.at(0.5)
    assert forecast.left() == pytest.approx(5)
    forecast.end()
    assert forecast.whole() == pytest.approx((1.0, 0.0))


def test_what_is_spared_is_no_longer_left_and_what_was_expected_twice_counts_once() -> None:
    time = Time()
    forecast = Forecast(time)
    forecast.stage("a", "evaluation", 100)
    trained(forecast, time, 1, 10.0)
    forecast.spare(40)
    assert forecast.left() == pytest.approx(50)
    forecast.expect("b", "evaluation", 10)
    forecast.expect("b", "evaluation", 20)
    assert forecast.left() == pytest.approx(70)
    forecast.stage("b", "evaluation", 20)
    forecast.expect("a", "evaluation", 1000)
    assert forecast.left() == pytest.approx(20)


def test_a_stage_to_come_goes_at_the_speed_of_the_last_of_its_kind() -> None:
    time = Time()
    forecast = Forecast(time)
    forecast.stage("a", "training", 10)
    trained(forecast, time, 1, 10.0)
    forecast.stage("a (last)", "evaluation", 10)
    trained(forecast, time, 1, 100.0)
    forecast.stage("b", "training", 10)
    forecast.expect("b (last)", "evaluation", 10)
    assert forecast.left() == pytest.approx(10 + 100)


def test_the_time_of_a_silent_piece_runs_down_and_never_below_nothing() -> None:
    time = Time()
    forecast = Forecast(time)
    forecast.begin(0)
    time.now = 10
    forecast.at(0.5)
    assert forecast.left() == pytest.approx(10)
    time.now = 16
    assert forecast.left() == pytest.approx(4)
    time.now = 40
    assert forecast.left() == 0


def test_runs_that_are_alike_are_expected_at_the_cost_of_the_first_and_those_done_already_are_not() -> None:
    time = Time()
    seen = Drawn(("selected",), ["a, seed 0", "a, seed 1", "a, seed 2"], time)
    for progress in [seen]:
        progress.expect("a, seed 0 (selected)", "evaluation", 5)
        progress.stage("a, seed 0", "training", 10)
    assert sum(seen.forecast.to_come.values()) == 2 * 10 + 3 * 5
    seen.stage("a, seed 2", "training", 10)  # seed 1 was trained before
    assert seen.forecast.to_come == {(f"a, seed {n} (selected)", "evaluation"): 5 for n in range(3)}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(bars, "console", Console(file=written, force_jupyter=False))
    return written


def test_a_log_gets_a_line_whenever_nothing_was_written_for_thirty_seconds(log: io.StringIO) -> None:
    time = Time()
    lines = Lines(now=time)
    lines.stage("at_digits, seed 3", "training", 40)
    advance = lines.begin("epoch 1/2", 4, "steps", 20)
    time.now = 29
    advance(2)
    lines.tell()
    assert log.getvalue() == ""
    time.now = 30
    lines.tell()
    assert log.getvalue() == "at_digits, seed 3: epoch 1/2, 2/4 steps; 25 %, about 1:28 min left\n"
    time.now = 45
    lines.say("something")
    time.now = 60
    lines.tell()
    assert log.getvalue().count("\n") == 2, "a sentence is a line too"
    lines.end()
    time.now = 500
    lines.tell()
    assert log.getvalue().count("\n") == 2
    assert lines.teller is None


def test_the_line_is_written_also_while_one_step_takes_long(log: io.StringIO) -> None:
    """By the thread itself, here after hundredths of a second."""
    lines = Lines(every=0.02)
    lines.begin("epoch 1/1", 1, "steps")
    assert lines.teller is not None
    for _ in range(500):
        if log.getvalue().count("\n") >= 2:
            break
        lines.over.wait(0.01)
    lines.end()
    assert log.getvalue().startswith("poise: epoch 1/1, 0/1 steps; ") and log.getvalue().count("\n") >= 2


def test_a_terminal_shows_one_time_left_and_the_piece_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=120, force_jupyter=False, color_system=None)
    monkeypatch.setattr(bars, "console", screen)
    time = Time()
    form = Bars(now=time)
    form.stage("at_digits, seed 0", "training", 40)
    advance = form.begin("epoch 1/2", 4, "steps", 20)
    time.now = 10
    advance(2)
    assert form.bars is not None
    form.bars.refresh()
    form.end()
    last = written.getvalue().rsplit("at_digits, seed 0", 1)[1]
    assert "25 %, about 30 s left" in last and "2/4 steps" in last and last.count("left") == 1
    assert form.bars is None


def test_without_a_terminal_the_command_draws_lines_and_the_library_nothing(log: io.StringIO) -> None:
    assert type(drawn()) is Lines
    assert type(default_progress(None)) is Progress
    mine = Cells()
    assert default_progress(mine) is mine


def test_times_are_written_for_people() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.4, 60, 185, 3600, 9660)] == [
        "0 s",
        "59 s",
        "1:00 min",
        "3:05 min",
        "1:00 h",
        "2:41 h",
    ]


def test_a_notebook_gets_two_bars_below_the_cell_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def display(bundle: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw
        shown.append((display_id, bundle["text/html"]))

    inner = types.ModuleType("IPython.display")
    inner.display = inner.update_display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    time = Time()
    cells = Cells(now=time)
    cells.stage("at_digits <b>", "training", 40)
    advance = cells.begin("epoch 1/2", 4, "steps", 20)
    time.now = 10
    advance(2)
    cells.end()
    assert len({place for place, _ in shown}) == 1
    first, second, last = (text for _, text in shown)
    assert "estimating what is left" in first and first.count("<progress") == 2
    assert "25 %, about 30 s left" in second and "2/4 steps" in second and "&lt;b&gt;" in second
    assert last == ""
