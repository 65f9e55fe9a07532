"""The verdict on an evaluation: what each check saw on a network, what that means and what to run next, as JSON,
without torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from poise.core.documents import opened, read_document, sealed, typed
from poise.core.errors import RunError
from poise.core.files import write_text

FORMAT = "poise.verdict.2"
_BEFORE_DIGESTS = "poise.verdict.1"
Judgement = Literal["pass", "warning", "flaw", "not applicable"]
"""A flaw makes an accuracy under attack meaningless as it stands; a warning asks for a further run before it is
believed.
"""
SEVERITY: dict[Judgement, int] = {"not applicable": 0, "pass": 1, "warning": 2, "flaw": 3}


@dataclass(frozen=True)
class Finding:
    """What one check saw. `means` and `then` are empty where it passed; `numbers` holds what `seen` says, as plain JSON
    data.
    """

    check: str
    """Name in lower case with underscores, such as "black_box"."""
    judgement: Judgement
    seen: str
    means: str = ""
    then: str = ""
    """What to run next."""
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The check's name as a person reads it."""
        return self.check.replace("_", " ")

    @property
    def alarming(self) -> bool:
        return self.judgement in ("warning", "flaw")


@dataclass(frozen=True)
class Verdict:
    """Every finding about one network, with all that says what was inspected, and how (module docstring)."""

    model: str
    """Display name."""
    checkpoint: str
    model_digest: str
    run: str
    """Name of the run folder, or empty."""
    dataset: str
    split: str
    count: int
    """Number of images."""
    natural_accuracy: float
    """On these images, in [0, 1]."""
    threat: dict[str, Any]
    effort: dict[str, Any]
    """Settings of the inspection: budgets of the attacks and level of the tests."""
    seed: int
    findings: list[Finding]
    attacks: dict[str, float]
    """Accuracy under each attack that was run on all images, in [0, 1], by name."""
    seconds: float
    started: str
    """UTC, ISO 8601."""
    device: str
    versions: dict[str, str]
    format: str = field(default=FORMAT, compare=False)

    @property
    def judgement(self) -> Judgement:
        """The worst judgement of all checks."""
        judgements: list[Judgement] = [finding.judgement for finding in self.findings]
        return max(judgements, key=lambda kind: SEVERITY[kind]) if judgements else "not applicable"

    @property
    def alarms(self) -> list[Finding]:
        """Flaws, then warnings, each in the order of the checks."""
        return [finding for kind in ("flaw", "warning") for finding in self.findings if finding.judgement == kind]

    def __getitem__(self, check: str) -> Finding:
        """The finding of one check. Raises: KeyError for one that was not made."""
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(
            f"the verdict has no check {check!r}; it has {', '.join(finding.check for finding in self.findings)}"
        )

    def write(self, path: str | Path) -> Path:
        """Write as JSON with its digest, atomically. Raises: StorageError."""
        return write_text(path, json.dumps(sealed(dataclasses.asdict(self) | {"format": FORMAT}), indent=1))

    @classmethod
    def read(cls, path: str | Path) -> Verdict:
        """Raises: RunError when the file is missing, damaged or not a verdict."""
        path = Path(path)
        data = read_document(path, "verdict")
        if not is_verdict(data):
            raise RunError(f"{path} is not a verdict of format {_BEFORE_DIGESTS!r} or {FORMAT!r}")
        try:
            return typed(cls, data if data["format"] == _BEFORE_DIGESTS else opened(data))
        except ValueError as error:
            raise RunError(f"{path} is not a complete verdict, or was damaged: {error}") from None


def is_verdict(data: object) -> bool:
    """Whether JSON data was written by `Verdict.write`."""
    return isinstance(data, dict) and data.get("format") in (FORMAT, _BEFORE_DIGESTS)


def summary(findings: Sequence[Finding]) -> str:
    """ "2 flaws, 1 warning, 11 passed", leaving out what there is none of."""
    counts = {kind: sum(finding.judgement == kind for finding in findings) for kind in ("flaw", "warning", "pass")}
    words = {"flaw": "flaw", "warning": "warning", "pass": "passed"}
    parts = [f"{n} {words[kind]}{'s' if n > 1 and kind != 'pass' else ''}" for kind, n in counts.items() if n]
    return ", ".join(parts) or "nothing was checked"
