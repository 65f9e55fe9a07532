"""What a question is answered with in Python: it shows itself in a notebook and becomes a data frame."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from poise.core.errors import MissingExtraError, RunError
from poise.core.records import EvaluationRecord
from poise.core.verdicts import Verdict, summary
from poise.reports.collect import Run as Folder
from poise.reports.formats import escape_markdown, heads
from poise.reports.sanity import verdict_markdown
from poise.reports.tables import table

if TYPE_CHECKING:
    from pandas import DataFrame  # pyright: ignore[reportMissingImports]


class Sheet(NamedTuple):
    """A small table as text: column heads, rows, and what is said below."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Answer(ABC):
    """What shows itself as a table, and hands its numbers over."""

    written: Path | None = None
    """The file in which it was written down."""

    @property
    def path(self) -> Path:
        """The file in which it was written down. Raises: RunError where none was."""
        if self.written is None:
            raise RunError("nothing was written; give the call out= to have a file")
        return self.written

    @abstractmethod
    def sheet(self) -> Sheet:
        """The table that a notebook shows."""

    @abstractmethod
    def lines(self) -> list[dict[str, Any]]:
        """The numbers, a row each."""

    def to_dataframe(self) -> DataFrame:
        """`lines` as a pandas.DataFrame. Raises: MissingExtraError without pandas."""
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None
        return pandas.DataFrame(self.lines())

    def _repr_html_(self) -> str:
        names, rows, notes = self.sheet()
        head = "".join(f"<th>{escape(text)}</th>" for text in names)
        body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
        below = "".join(f"<p>{escape(note)}</p>" for note in notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"

    def _repr_markdown_(self) -> str:
        names, rows, notes = self.sheet()
        lines = [names, ["---"] * len(names), *([escape_markdown(text) for text in row] for row in rows)]
        return (
            "\n".join(
                [*(f"| {' | '.join(line)} |" for line in lines), *(f"\n{escape_markdown(note)}" for note in notes)]
            )
            + "\n"
        )


class Evaluation(EvaluationRecord, Answer):
    """An evaluation's record, which knows where it lies; it shows the accuracies in percent."""

    @classmethod
    def of(cls, record: EvaluationRecord, path: Path | None) -> Self:
        return _with_path(cls, record, path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EvaluationRecord) and _plain(self) == _plain(other)

    def sheet(self) -> Sheet:
        folder = Folder(self.written or Path(), self.run or self.model, records={self.checkpoint: self})
        sheet_table = table([folder], "all")
        names = [*heads(sheet_table), *(column.label for column in sheet_table.columns)]
        rows = [
            [row.label, *[""] * (len(heads(sheet_table)) - 1), *(cell.text for cell in row.cells)]
            for row in sheet_table.rows
        ]
        where = [] if self.written is None else [f"record: {self.written}"]
        return Sheet(names, rows, [f"{sheet_table.rows[0].data}; accuracy in percent", *sheet_table.notes, *where])

    def lines(self) -> list[dict[str, Any]]:
        """The natural images, each attack, and the worst case over all of them; accuracies in [0, 1]."""
        lines: list[dict[str, Any]] = [
            {"attack": "natural", "threat": None, "epsilon": 0.0, "accuracy": self.natural_accuracy}
        ]
        for attack in self.attacks:
            threat: Mapping[str, Any] = attack.settings.get("threat", {})
            size = {"threat": threat.get("type"), "epsilon": threat.get("epsilon")}
            lines.append(
                {"attack": attack.name, **size, "accuracy": self.accuracy(attack.name), "seconds": attack.seconds}
            )
        if self.attacks:
            lines.append(
                {"attack": "worst case", "threat": None, "epsilon": None, "accuracy": self.worst_case_accuracy}
            )
        return [{**line, "seconds": line.get("seconds"), "images": self.count} for line in lines]

    def curve(self) -> dict[str, list[tuple[float, float]]]:
        """Accuracy against epsilon, both rising from the natural images' at 0: {attack: [(epsilon, accuracy), ...]}."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for attack in self.attacks:
            size = float(attack.settings["threat"]["epsilon"])
            name = attack.name.removesuffix(f" {size:.4g}").removesuffix(" at")
            curves.setdefault(name, [(0.0, self.natural_accuracy)]).append((size, self.accuracy(attack.name)))
        return {name: sorted(points) for name, points in curves.items()}


class Soundness(Verdict, Answer):
    """What `sanity` found, which knows where it lies."""

    @classmethod
    def of(cls, findings: Verdict, path: Path | None) -> Self:
        return _with_path(cls, findings, path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and _plain(self) == _plain(other)

    def sheet(self) -> Sheet:
        return Sheet(
            ["check", "judgement", "seen"],
            [[finding.title, finding.judgement, finding.seen] for finding in self.findings],
            [summary(self.findings)],
        )

    def lines(self) -> list[dict[str, Any]]:
        return [
            {"check": finding.check, "judgement": finding.judgement, "seen": finding.seen, "means": finding.means}
            for finding in self.findings
        ]

    def _repr_markdown_(self) -> str:
        return verdict_markdown(self)


@dataclasses.dataclass(frozen=True)
class Page:
    """A page that was written; a notebook shows it."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


def _plain(record: Any) -> str:
    """As a file has it, in which tuples are lists."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True)


def _with_path(cls: type[Any], record: Any, path: Path | None) -> Any:
    answer = cls(**{field.name: getattr(record, field.name) for field in dataclasses.fields(record)})
    object.__setattr__(answer, "written", path)
    return answer
