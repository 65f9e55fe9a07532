"""What several verbs take: options, the user's own code, the drawn progress."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console

from poise.core.errors import SettingsError
from poise.core.printing import printable

if TYPE_CHECKING:
    from poise.engine.progress import Progress


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


console = Console(file=cast(IO[str], _Unbroken()), stderr=True)

NO_SMALL_VARIANT = "--quick is of recipes, which have a small variant; settings that were written down are as they are"
Together = Literal["mean-probabilities", "mean-logits", "vote"]
"""How runs that are asked as one ensemble answer."""
Device = Annotated[str, typer.Option(help="'auto' (the first GPU, else the CPU), 'cpu', 'cuda', 'cuda:1', ...")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; by default $POISE_DATA, else the user's cache.")
]
Imports = Annotated[
    list[Path] | None,
    typer.Option("--import", help="Your own file, executed first so that its classes are registered; may be repeated."),
]


def import_files(paths: list[Path] | None) -> dict[str, str]:
    """Execute the user's files; returns the SHA-256 of each, for the record. Raises: SettingsError for a missing
    file.
    """
    if not paths:
        return {}
    from poise.core.code import give_all

    digests = {}
    for path in paths:
        if not path.is_file():
            raise SettingsError(f"--import {path}: there is no such file")
        taken = getattr(sys.modules.get(path.stem), "__file__", None)
        if path.stem in sys.stdlib_module_names or (
            path.stem in sys.modules and Path(taken or "").resolve() != path.resolve()
        ):
            raise SettingsError(f"--import {path}: the name {path.stem!r} is taken by another module; rename the file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise SettingsError(f"--import {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        give_all(module)
        digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def run_only(checkpoint: str | None, weights: Path | None) -> None:
    """Raises: SettingsError for both."""
    if weights is not None and checkpoint is not None:
        raise SettingsError(
            "--checkpoint is one of a run's, and --weights is a checkpoint already; leave one of them out"
        )


def bytes_of(text: str, option: str) -> int:
    """4GiB, 500MB or a plain number, as bytes. Raises: SettingsError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kMG])(i?)B)?", text.strip())
    if match is None or float(match[1]) == 0:
        raise SettingsError(f"{option} {text}: must be a positive number of bytes such as 4GiB, 500MB or 4000000000")
    power = " kMG".index(match[2] or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def listed(text: str | None) -> str | list[str] | None:
    """ "2/255,4/255" or "Linf,L2" as a list, one as it is."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    return parts if len(parts) > 1 else text


def drawn() -> Progress:
    """A progress bar with rate and time left, and a line per monitored epoch, on stderr."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    from poise.engine.progress import Progress

    class Rate(ProgressColumn):
        """Units per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "")

    class Drawn(Progress):
        def __init__(self) -> None:
            self.bars: Bars | None = None
            self.what, self.told = "", time.monotonic()

        def begin(self, what: str, total: int, unit: str) -> Callable[[int], None]:
            self.end()
            self.what = what = printable(what)
            if not console.is_terminal:  # a log file wants lines, not a bar
                return lambda done: None
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                Rate(),
                TimeRemainingColumn(),
            )
            bars = Bars(*columns, console=console, transient=True)
            self.bars = bars
            task = bars.add_task(what, total=total, unit=unit)
            bars.start()
            return lambda done: bars.advance(task, done)

        def note(self, text: str) -> None:
            if self.bars is not None:
                self.bars.update(self.bars.task_ids[0], description=f"{self.what} ({text})")
            elif time.monotonic() - self.told >= 60:
                self.told = time.monotonic()
                console.print(printable(f"{self.what}: {text}"), markup=False, highlight=False, soft_wrap=True)

        def end(self) -> None:
            if self.bars is not None:
                self.bars.stop()
                self.bars = None

        def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
            shown = {
                key.removeprefix("monitor/"): value for key, value in numbers.items() if key.startswith("monitor/")
            }
            if shown:
                accuracies = "  ".join(f"{name} {100 * value:.2f} %" for name, value in shown.items())
                what = escape(self.what) or f"epoch {epoch}/{epochs}"
                console.print(
                    f"{what}  {accuracies}  [dim]{numbers['images_per_second']:.0f} images/s[/dim]",
                    highlight=False,
                    soft_wrap=True,
                )

        def say(self, sentence: str) -> None:
            console.print(printable(sentence), style="yellow", markup=False, highlight=False, soft_wrap=True)

    return Drawn()


def print_table(paths: list[Path]) -> None:
    """The table of runs or records, on stdout."""
    from poise.reports import read_runs, table, to_terminal
    from poise.reports.experts import experts_terminal
    from poise.reports.terminal import show

    results = table(read_runs(paths))
    experts = experts_terminal(results)
    show(to_terminal(results), *([experts] if experts is not None else []))
