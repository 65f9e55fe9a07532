"""Tables of numbers for the terminal. Where one has too little room its columns are continued below, so that no digit
is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from poise.core.printing import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

Line = tuple[Sequence[str], Sequence["Text"], str | None]
"""Texts of the leading columns, numbers, style."""
_HEAD = 18
"""A head longer than this, and than the numbers below it, is wrapped."""
_APART = 3


@dataclass
class Numbers:
    """A rich renderable: leading columns of words, then columns of numbers, as many beside each other as there is room
    for.
    """

    words: Sequence[str]
    heads: Sequence[str]
    lines: list[Line] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)
    """Before which lines there is a rule."""
    title: str = ""
    caption: str = ""
    justify: Literal["left", "right"] = "right"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        leading = [
            max(len(text) for text in (head, *(line[0][place] for line in self.lines)))
            for place, head in enumerate(self.words)
        ]
        room = max(options.max_width, 20)
        most = max(room // 2 - _APART * len(leading), 8) // max(len(leading), 1)
        leading = [min(width, most) if sum(leading) > most * len(leading) else width for width in leading]
        room -= sum(leading) + _APART * len(leading) + 1
        for number, part in enumerate(self._parts(room)):
            yield self._table(part, leading, room - _APART, first=number == 0)
        if self.caption:
            yield Text("\n".join(f"  {printable(line)}" for line in self.caption.split("\n")), style="italic dim")

    def width(self, place: int) -> int:
        """Of a column of numbers, in characters."""
        widest = max((len(line[1][place].plain) for line in self.lines), default=1)
        return max(widest, min(len(self.heads[place]), _HEAD))

    def _parts(self, room: int) -> Iterator[list[int]]:
        part: list[int] = []
        for place in range(len(self.heads)):
            if part and sum(self.width(column) + _APART for column in (*part, place)) > room:
                yield part
                part = []
            part.append(place)
        yield part

    def _table(self, part: Sequence[int], leading: Sequence[int], most: int, first: bool) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            title=Text(printable(self.title)) if self.title and first else None,
            title_justify="left",
        )
        for head, width in zip(self.words, leading, strict=True):
            table.add_column(head, overflow="fold", min_width=width, max_width=width)
        for place in part:
            table.add_column(
                Text(printable(self.heads[place])),
                justify=self.justify,
                overflow="fold",
                min_width=min(self.width(place), most),
            )
        for number, (words, numbers, style) in enumerate(self.lines):
            if number in self.sections:
                table.add_section()
            table.add_row(*(Text(printable(word)) for word in words), *(numbers[place] for place in part), style=style)
        return table


FULL = 2_000
"""Characters of a line in a file or a pipe, where nothing has to be continued below."""


def show(*tables: Any) -> None:
    """Print rich renderables on stdout: in a terminal of its width, in a file or a pipe as wide as they are."""
    import sys

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else FULL)
    for table in tables:
        console.print(table)
