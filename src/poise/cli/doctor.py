"""poise doctor"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from poise.cli.shared import DataDir

State = Literal["good", "missing", "wrong"]
ENOUGH = 2**30
"""Bytes that a disk should have left."""
OWN = ("dev", "docs", "notebooks", "browser", "all")
"""Extras that bring nothing of their own to a user."""


@dataclass(frozen=True)
class Finding:
    """What was looked at and seen there. "missing" is what may be missing; `remedy` is then what brings it."""

    what: str
    state: State
    seen: str
    remedy: str = ""


def doctor(data_dir: DataDir = None) -> None:
    """Say what this machine has for Poise and what is missing. Exit status 1 where something is wrong.

    Examples:

      poise doctor

      poise doctor --data-dir /data
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="cyan")
    table.add_column()
    table.add_column(overflow="fold")
    colours: dict[State, str] = {"good": "green", "missing": "yellow", "wrong": "red"}
    findings = list(examined(data_dir))
    for finding in findings:
        text = finding.seen + (f"; {finding.remedy}" if finding.remedy else "")
        table.add_row(escape(finding.what), f"[{colours[finding.state]}]{finding.state}[/]", escape(text))
    Console().print(table)
    if wrong := [finding.what for finding in findings if finding.state == "wrong"]:
        typer.echo(f"wrong: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)


def examined(data_dir: Path | None = None) -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it is shown."""
    yield _python()
    yield from _packages()
    if not _importable("torch"):
        return
    yield from _devices()
    yield _trains()
    yield from _data(data_dir)
    yield from _extras()


def _python() -> Finding:
    description = f"{platform.python_version()} ({sys.executable})"
    good = sys.version_info >= (3, 11)
    return Finding("Python", "good" if good else "wrong", description, "" if good else "Poise needs 3.11 or newer")


def _packages() -> Iterator[Finding]:
    from poise.core.version import __version__

    yield Finding("poise", "good", f"{__version__} ({Path(__file__).parents[1]})")
    for name, least in _required():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "wrong", "is not installed", f"pip install '{name}>={least}'")
            continue
        if name == "torch" or _older(version, least):
            old = _older(version, least)
            remedy = f"pip install '{name}>={least}'" if old else ""
            yield Finding(name, "wrong" if old else "good", version, remedy)


def _required() -> list[tuple[str, str]]:
    """(package, least version) of what Poise can't do without, as its metadata say."""
    try:
        lines = [line for line in metadata.requires("poise") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # from a checkout, by PYTHONPATH
        lines = ["torch>=2.5", "numpy>=1.26"]
    return [(name, least) for name, _, least in (line.partition(">=") for line in lines)]


def _older(version: str, least: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.partition("+")[0].split(".") if part.isdigit()]

    return numbers(version) < numbers(least)


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _devices() -> Iterator[Finding]:
    import torch

    from poise.core.processors import bfloat16_gain, native_bfloat16, processor

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processor", "good", f"{processor().name}, {cores} cores, {torch.get_num_threads()} threads")
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for number in gpus:
        about = torch.cuda.get_device_properties(number)
        yield Finding(f"GPU {number}", "good", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    if not gpus:
        cuda_version = torch.version.cuda
        description = f"none that torch {torch.__version__} sees" + (
            "" if cuda_version else ", which is built without CUDA"
        )
        yield Finding("GPU", "missing", description, "everything runs on the processor")
    cpu = torch.device("cpu")
    takes = f"precision=auto takes {'it' if native_bfloat16(cpu) else 'float32'}"
    yield Finding("bfloat16", "good", f"{bfloat16_gain():.1f} times as fast as float32 by measurement; {takes}")
    if gpus:
        native = native_bfloat16(torch.device("cuda"))
        yield Finding("bfloat16, GPU", "good", "native" if native else "emulated, so precision=auto takes float32")


def _trains() -> Finding:
    """One epoch on a few digits, from the settings to the weights on disk."""
    from poise.core.errors import PoiseError
    from poise.core.overrides import override
    from poise.engine import train
    from poise.recipes import experiment

    small = ["epochs=1", "data.train_images=64", "data.test_images=16"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(override(experiment("at_digits", True), small), Path(folder) / "run")
        except PoiseError as error:
            return Finding("training", "wrong", str(error))
    return Finding("training", "good", "an epoch on 64 digits, weights saved")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    from poise.core.settings import registered
    from poise.data import DataSource, data_directory
    from poise.data.downloads import PublishedSource

    folder = data_directory(data_dir)
    yield _place(folder)
    sources: list[Callable[[], PublishedSource]] = [
        cls
        for cls in registered(DataSource).values()  # type: ignore[type-abstract]
        if issubclass(cls, PublishedSource)
    ]
    for make in sources:
        source = make()
        files = source.found_in(folder)
        name = type(source).__name__
        if files is not None:
            yield Finding(name, "good", str(files))
        else:
            yield Finding(name, "missing", "not here", f"fetched when it is first used, or: {source.remotes[0].url}")


def _place(folder: Path) -> Finding:
    """The data folder, or what of its path is there already."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    description = f"{folder} ({free / 2**30:.0f} GiB free)"
    advice = "name another by POISE_DATA or --data-dir"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("data folder", "wrong", f"{description} can't be written to", advice)
    if free < ENOUGH:
        return Finding("data folder", "missing", description, f"make room, or {advice}")
    return Finding("data folder", "good", description)


def _extras() -> Iterator[Finding]:
    """Optional packages by the extra that brings them."""
    try:
        lines = metadata.requires("poise") or []
        extras = metadata.metadata("poise").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in sorted(set(extras) - set(OWN)):
        packages = [line.partition(">=")[0].partition(";")[0] for line in lines if f'extra == "{extra}"' in line]
        absent = [name for name in packages if not _there(name)]
        if absent:
            yield Finding(f"poise[{extra}]", "missing", ", ".join(absent), f"pip install 'poise[{extra}]'")
        else:
            yield Finding(f"poise[{extra}]", "good", ", ".join(f"{name} {metadata.version(name)}" for name in packages))


def _there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
