"""Text of other people, such as names in records and paths, as it may be printed: it steers no terminal and starts no
formula.
"""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text with every character that would steer a terminal, hide or turn round what is written, escaped as Python
    writes it.

    So are line ends, tabs and half characters, which no file takes.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if _steers(character) else character for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _steers(character: str) -> bool:
    """Control characters (Cc), marks of direction and zero width (Cf), half characters (Cs), line and paragraph ends
    (Zl, Zp).
    """
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def spreadsheet(text: str) -> str:
    """A text as a cell of a CSV file: where a spreadsheet would compute it, an apostrophe before it keeps that from
    happening.
    """
    text = printable(text)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
