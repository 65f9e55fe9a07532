"""What an evaluation has finished, in a folder beside the record to be, so that one that was killed goes on where it
was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.documents import opened, parse, sealed, typed
from poise.core.files import read_text, sweep, write_text, writing
from poise.core.hardware import Hardware, joined

_PLAN = "plan.json"
_PROCESSORS = "processors.json"


class Journal:
    """Parts of an evaluation by key, each written whole or not at all, with its digest; without a folder it keeps
    nothing.

    facts: what the evaluation is of, as JSON data; processors: those of all its ranks. A folder left by an evaluation
    of something else is emptied first; nothing is written before there is something to keep. Raises: StorageError.
    """

    def __init__(
        self, folder: Path | None, facts: Mapping[str, Any], processors: Sequence[Hardware] = (), drop: bool = True
    ) -> None:
        self.folder, self._facts = folder, json.loads(json.dumps(dict(facts)))
        self.damaged: list[str] = []
        """A sentence for every part that was damaged, and so counts as never made."""
        there = folder is not None and folder.exists()
        self.plan: dict[str, Any] | None = self._read(_PLAN, dict[str, Any])
        """What is kept is of."""
        self.dropped = there and drop and self.plan != self._facts
        """Whether there was such a folder of something else."""
        if folder is not None and there:
            sweep(folder.iterdir())
        if folder is not None and self.dropped:
            _remove(folder)
        before = self._read(_PROCESSORS, list[Hardware]) or []
        self.processors: list[Hardware] = joined(before, processors)
        """Those that what is kept was made on, and those that go on."""
        self._noted = before == self.processors

    def get(self, key: str, kind: Any = Any) -> Any | None:
        """What was kept under this key, of this type (see `typed`); None where there is none, or it is damaged."""
        return self._read(f"part-{key}.json", kind)

    def keep(self, key: str, part: Any) -> None:
        if self.folder is not None:
            self._begin(self.folder)
            self._write(self.folder / f"part-{key}.json", part)

    def state(self, key: str, width: int) -> tuple[Path | None, int]:
        """The file in which a search keeps its state, and the lanes it goes on with: `width` unless it was begun with
        others.
        """
        if self.folder is None:
            return None, width
        self._begin(self.folder)
        for state_file in self.folder.glob(f"state-{key}-*.safetensors*"):  # several ranks add to the name
            width = int(state_file.name.partition(".safetensors")[0].rpartition("-")[2])
        return self.folder / f"state-{key}-{width}.safetensors", width

    def drop_if_empty(self) -> None:
        """Remove a folder that holds nothing to go on from."""
        if (
            self.folder is not None
            and self.folder.exists()
            and {path.name for path in self.folder.iterdir()} <= {_PLAN, _PROCESSORS}
        ):
            self.close()

    def close(self) -> None:
        """The evaluation is over."""
        if self.folder is not None and self.folder.exists():
            _remove(self.folder)

    def _begin(self, folder: Path) -> None:
        if not (folder / _PLAN).exists():
            self._write(folder / _PLAN, self._facts)
        if not self._noted:
            self._write(folder / _PROCESSORS, [dataclasses.asdict(processor) for processor in self.processors])
            self._noted = True

    @staticmethod
    def _write(path: Path, content: Any) -> None:
        write_text(path, json.dumps(sealed({"content": content})))

    def _read(self, name: str, kind: Any) -> Any | None:
        """What was written under this name, also as it was before there were digests; None where there is none or it is
        damaged.
        """
        if self.folder is None or not (self.folder / name).exists():
            return None
        try:
            data = parse(read_text(self.folder / name))
            if isinstance(data, dict) and "sha256" in data:
                data = opened(data)["content"]
            return typed(kind, data, name)
        except (OSError, ValueError, KeyError) as error:
            self.damaged.append(f"{self.folder / name} is damaged ({error}); what it held is made anew")
            return None


def drop_others(folder: Path, name: str, weights: str) -> None:
    """Remove what is unfinished in a folder of evaluations whose records' names begin so, and is not of weights of this
    digest.
    """
    for place in folder.glob(f".{name}*.unfinished"):
        plan = Journal(place, {}, drop=False).plan
        if plan is not None and plan.get("model") != weights:
            _remove(place)


def _remove(folder: Path) -> None:
    with writing(folder):
        shutil.rmtree(folder)
