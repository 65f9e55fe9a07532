"""Progress as it is seen: two bars at a terminal, the same in a notebook, lines in a log.

The upper bar is the whole job with the one estimate of the time left; the lower one the piece in progress, by count.
"""

from __future__ import annotations

import contextlib
import html
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from poise.core.printing import printable
from poise.core.progress import Advance, Forecast, Kind, Progress, clock

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars

EVERY = 30.0
"""Seconds after which a log gets another line."""


class _Unbroken:
    """stderr as it is now, which may break while work goes on: a closed pipe, a full disk, a terminal that is gone or
    knows few letters.
    """

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, errors="backslashreplace").decode(error.encoding))
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


console = Console(file=cast(IO[str], _Unbroken()), stderr=True, force_jupyter=False)


class Drawn(Progress):
    """What all forms have: the forecast, the piece in progress, sentences. A form says how it `show`s and `hide`s."""

    def __init__(
        self, evaluations: tuple[str, ...] = (), alike: Sequence[str] = (), now: Callable[[], float] = time.monotonic
    ) -> None:
        """evaluations: see `Progress`; alike: who have their turns, each at the cost of the first."""
        self.evaluations, self.alike = evaluations, alike
        self.forecast = Forecast(now)
        self.who, self.what, self.unit, self.text = "", "", "", ""
        self.done, self.total = 0, 0
        self.at_work = False

    def expect(self, who: str, kind: Kind, cost: float) -> None:
        self.forecast.expect(who, kind, cost)
        me = next((name for name in self.alike if who.startswith(name)), None)
        for title in self.alike if me is not None else ():
            full_name = f"{title}{who.removeprefix(me or '')}"
            if title != me and (full_name, kind) not in self.forecast.to_come:
                self.forecast.expect(full_name, kind, cost)

    def _pass_over(self, who: str, kind: Kind) -> None:
        """Whose turn was before this one's and never began was done already."""
        turns = {name: turn for turn, name in enumerate(self.alike)}
        place = next((turn for name, turn in turns.items() if who.startswith(name)), -1)
        for title, stage in list(self.forecast.to_come):
            turn = next((turn for name, turn in turns.items() if title.startswith(name)), len(turns))
            if (turn < place and stage == kind) or (turn <= place and (stage, kind) == ("training", "evaluation")):
                del self.forecast.to_come[title, stage]

    def spare(self, cost: float) -> None:
        self.forecast.spare(cost)

    def stage(self, who: str, kind: Kind, cost: float) -> None:
        self.expect(who, kind, cost)
        self._pass_over(who, kind)
        self.forecast.stage(who, kind, cost)
        self.who = printable(who)

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Advance:
        self.forecast.begin(cost)
        self.what, self.unit, self.text = printable(what), unit, ""
        self.done, self.total, self.at_work = 0, total, True
        self.show()

        def advance(done: int) -> None:
            self.done += done
            self.forecast.at(self.done / total if total else 1.0)
            self.show()

        return advance

    def note(self, text: str, share: float | None = None) -> None:
        self.text = printable(text)
        if share is not None:
            self.forecast.at(share)
        self.show()

    def end(self) -> None:
        self.forecast.end()
        if self.at_work:
            self.at_work = False
            self.hide()

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        values = {key.removeprefix("monitor/"): value for key, value in numbers.items() if key.startswith("monitor/")}
        if values:
            accuracies = "  ".join(f"{name} {100 * value:.2f} %" for name, value in values.items())
            prefix = escape(f"{self.who}: " if self.who else "")
            speed = f"[dim]{numbers['images_per_second']:.0f} images/s[/dim]"
            self.print(f"{prefix}epoch {epoch}/{epochs}  {accuracies}  {speed}", markup=True)

    def say(self, sentence: str) -> None:
        self.print(printable(sentence), style="yellow")

    def print(self, text: str, markup: bool = False, style: str | None = None) -> None:
        console.print(text, style=style, markup=markup, highlight=False, soft_wrap=True)

    def show(self) -> None:
        """Something changed."""

    def hide(self) -> None:
        """The piece in progress is over."""

    def whole(self) -> tuple[float | None, str]:
        """The job: the share that is done, None before it can be told, and what is left in words."""
        shares = self.forecast.whole()
        if shares is None:
            return None, "estimating what is left"
        share, seconds_left = shares
        return share, f"{100 * share:.0f} %, about {clock(seconds_left)} left"

    def piece(self) -> str:
        """The piece by count."""
        count = f"{self.done:,}/{self.total:,} {self.unit}" if self.total else ""
        return ", ".join(filter(None, (count, self.text)))


class Bars(Drawn):
    """At a terminal."""

    bars: RichBars | None = None

    def show(self) -> None:
        if self.bars is None:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichBars

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"))
            self.bars = RichBars(*columns, console=console, transient=True)
            self.bars.add_task("", total=None, text="")
            self.bars.add_task("", total=None, text="")
            self.bars.start()
        share, seconds_left = self.whole()
        first, second = self.bars.task_ids
        total, finished_share = (None, 0.0) if share is None else (1.0, share)
        self.bars.update(first, description=self.who or "all", total=total, completed=finished_share, text=seconds_left)
        self.bars.update(
            second, description=f"  {self.what}", total=self.total or None, completed=self.done, text=self.piece()
        )

    def hide(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


class Lines(Drawn):
    """In a log: a line wherever none was written for `every` seconds, also while one step takes longer than that."""

    def __init__(self, *given: Any, every: float = EVERY, **named: Any) -> None:
        super().__init__(*given, **named)
        self.every, self.written = every, self.forecast.clock()
        self.teller: threading.Thread | None = None
        self.over = threading.Event()

    def show(self) -> None:
        if self.teller is None:
            self.over.clear()
            self.teller = threading.Thread(target=self._tell, daemon=True, name="poise progress")
            self.teller.start()

    def hide(self) -> None:
        self.over.set()
        self.teller = None

    def print(self, text: str, markup: bool = False, style: str | None = None) -> None:
        self.written = self.forecast.clock()
        super().print(text, markup, style)

    def line(self) -> str:
        """Who, what, and what is left."""
        return f"{self.who or 'poise'}: {self.what}, {self.piece()}; {self.whole()[1]}"

    def tell(self) -> None:
        """Write the line where it is time to."""
        if self.at_work and self.forecast.clock() - self.written >= self.every:
            self.print(self.line())

    def _tell(self) -> None:
        over = self.over
        while not over.wait(max(0.1, self.every - (self.forecast.clock() - self.written))):
            self.tell()


class Cells(Drawn):
    """In a notebook, below the cell; needs no widgets."""

    handle: str | None = None
    updated = 0.0

    def show(self) -> None:
        if self.handle is not None and self.forecast.clock() - self.updated < 0.5:
            return
        self.updated = self.forecast.clock()
        share, seconds_left = self.whole()
        upper = f'<progress max="1"{"" if share is None else f" value={share:.3f}"}></progress>'
        lower = f'<progress max="{self.total}" value="{self.done}"></progress>'
        rows = (
            (html.escape(self.who or "all"), upper, seconds_left),
            (html.escape(self.what), lower, html.escape(self.piece())),
        )
        table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        self._display(
            {"text/html": f"<table>{table}</table>", "text/plain": f"{self.who}: {self.what}; {seconds_left}"}
        )

    def hide(self) -> None:
        if self.handle is not None:
            self._display({"text/html": "", "text/plain": ""})
            self.handle = None

    def print(self, text: str, markup: bool = False, style: str | None = None) -> None:
        Console(file=sys.stdout, force_jupyter=False, width=200).print(
            text, markup=markup, highlight=False, soft_wrap=True
        )

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display, update_display  # pyright: ignore[reportMissingImports]

        if self.handle is None:
            self.handle = uuid.uuid4().hex
            display(bundle, raw=True, display_id=self.handle)
        else:
            update_display(bundle, raw=True, display_id=self.handle)


def drawn(evaluations: tuple[str, ...] = (), alike: Sequence[str] = ()) -> Drawn:
    """The form that fits where this process writes; see `Drawn`."""
    form = Cells if in_notebook() else Bars if console.is_terminal else Lines
    return form(evaluations, alike)


def default_progress(progress: Progress | None) -> Progress:
    """What a function of the library draws by: as it was told, else bars where somebody looks, else nothing."""
    if progress is not None:
        return progress
    return drawn() if in_notebook() or console.is_terminal else Progress()


def in_notebook() -> bool:
    """Whether a notebook shows what this process displays."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
