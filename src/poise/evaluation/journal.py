"""What an evaluation has finished, in a folder beside the record to be, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poise.core.records import write_text, writing

_PLAN = "plan.json"


class Journal:
    """Parts of an evaluation by key, each written whole or not at all; without a folder it keeps nothing.

    facts: what the evaluation is of, as JSON data. A folder left by an evaluation of something else is emptied first; nothing is
    written before there is something to keep. Raises: StorageError.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        self.folder, self._facts = folder, json.loads(json.dumps(dict(facts)))
        self.dropped = folder is not None and folder.exists() and _read(folder / _PLAN) != self._facts
        """Whether there was such a folder."""
        if folder is not None and self.dropped:
            _remove(folder)

    def get(self, key: str) -> Any | None:
        """What was kept under this key."""
        return None if self.folder is None else _read(self.folder / f"part-{key}.json")

    def keep(self, key: str, part: Any) -> None:
        if self.folder is not None:
            self._begin(self.folder)
            write_text(self.folder / f"part-{key}.json", json.dumps(part))

    def state(self, key: str, width: int) -> tuple[Path | None, int]:
        """The file in which a search keeps its state, and the lanes it goes on with: `width` unless it was begun with others."""
        if self.folder is None:
            return None, width
        self._begin(self.folder)
        for begun in self.folder.glob(f"state-{key}-*.safetensors*"):  # several ranks add to the name
            width = int(begun.name.partition(".safetensors")[0].rpartition("-")[2])
        return self.folder / f"state-{key}-{width}.safetensors", width

    def drop_if_empty(self) -> None:
        """Remove a folder that holds nothing to go on from."""
        if self.folder is not None and self.folder.exists() and {path.name for path in self.folder.iterdir()} <= {_PLAN}:
            self.close()

    def close(self) -> None:
        """The evaluation is over."""
        if self.folder is not None and self.folder.exists():
            _remove(self.folder)

    def _begin(self, folder: Path) -> None:
        if not (folder / _PLAN).exists():
            write_text(folder / _PLAN, json.dumps(self._facts))


def _read(path: Path) -> Any | None:
    """The JSON data, None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    with writing(folder):
        shutil.rmtree(folder)
