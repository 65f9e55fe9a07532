"""Networks handed to others: weights, what builds them, a card made of the record, and RobustBench's description, in a
repository of the hub or a folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch

from poise.core.documents import parse
from poise.core.errors import RunError, SettingsError
from poise.core.files import check_writable, read_text, write_bytes, write_text
from poise.core.records import EvaluationRecord
from poise.core.verdicts import Verdict
from poise.engine.blueprint import IN_FILE, Blueprint
from poise.evaluation.digests import digest_of
from poise.interop.hub.exchange import check_name, pushed
from poise.interop.hub.files import CARD, CONFIG, INFO, RECORD, VERDICT, WEIGHTS
from poise.interop.robustbench.info import ModelInfo
from poise.verbs.card import Purpose, card, info_of
from poise.verbs.kinds import FOLDER, Asked, subject_of
from poise.verbs.of_blueprint import OfBlueprint
from poise.verbs.of_run import OfRun
from poise.verbs.of_zoo import OfZoo
from poise.verbs.subject import Subject


def push(
    asked: Asked,
    to: str,
    *,
    good_for: str = "",
    not_for: str = "",
    private: bool = False,
    **kind: Any,
) -> str:
    """Hand a run's network, or a zoo network, to others; returns what `poise.load` takes.

    to: owner/name on the hub (HF_ENDPOINT says where; the hub's own library finds the token), or folder:PATH. good_for,
    not_for: what the card says of its use; by default what the record can vouch for. kind: see `subject_of`.
    Raises: RunError where it was not evaluated yet or the record is of other weights, SettingsError for a network that
    its settings do not tell, MissingExtraError, StorageError.
    """
    local = to.startswith(FOLDER)
    if not local:
        check_name(to)
    subject = subject_of(asked, **{"device": "cpu", **kind})
    plan = subject.blueprint()
    if plan is None:
        raise SettingsError(
            f"{subject.title}: its network is code of yours that its settings only name, so nobody else could build it;"
            " register it as a class of poise.models.Network, and train that"
        )
    record, verdict = _record(subject), _verdict(subject)
    if record.model_digest != plan.weights:
        raise RunError(f"the record of {subject.title} is of other weights; make it anew: {_again(subject)}")
    purpose = _purpose(subject, record, good_for, not_for)
    if local:
        folder = Path(to.removeprefix(FOLDER))
        _check_free(folder)
        _fill(folder, subject, plan, record, verdict, purpose, f"{FOLDER}{folder}")
        return f"{FOLDER}{folder}"
    with tempfile.TemporaryDirectory() as temporary:
        _fill(Path(temporary), subject, plan, record, verdict, purpose, f"hf://{to}")
        return pushed(Path(temporary), to, private, f"{plan.name} by Poise")


def card_of(asked: Asked, **kind: Any) -> str:
    """The card that `push` would write of it. Raises: as `push` does."""
    subject = subject_of(asked, **{"device": "cpu", **kind})
    if (plan := subject.blueprint()) is None:
        raise SettingsError(f"{subject.title} is code of yours, of which there is no card")
    record = _record(subject)
    return card(plan, record, _verdict(subject), _purpose(subject, record, "", ""), subject.spelled)


def _fill(
    folder: Path,
    subject: Subject,
    plan: Blueprint,
    record: EvaluationRecord,
    verdict: Verdict | None,
    purpose: Purpose,
    address: str,
) -> None:
    weights = {name: tensor.contiguous() for name, tensor in subject.network.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt", IN_FILE: plan.text()}))
    info = info_of(record, plan)
    for (dataset, threat), description in info.items():
        ModelInfo.write(description, folder / INFO / dataset / threat / f"{plan.name or 'network'}.json")
    record.write(folder / RECORD)
    if verdict is not None:
        verdict.write(folder / VERDICT)
    write_text(folder / CARD, card(plan, record, verdict, purpose, address))
    write_text(folder / CONFIG, json.dumps(plan.document(), indent=1) + "\n")


def _check_free(folder: Path) -> None:
    """Raises: SettingsError for a folder with something else in it, StorageError."""
    check_writable(folder / CONFIG)
    if folder.is_dir() and any(folder.iterdir()):
        try:
            ours = "poise_format" in parse(read_text(folder / CONFIG))
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise SettingsError(f"{folder} holds other files and no network of Poise's; name an empty or a new folder")


def _record(subject: Subject) -> EvaluationRecord:
    """Raises: RunError where there is none."""
    if isinstance(subject, OfZoo):
        return subject.entry.record
    if isinstance(subject, OfBlueprint) and subject.published_record is not None:
        return subject.published_record
    path = subject.place("record") if isinstance(subject, OfRun) else None
    if path is None or not path.exists():
        raise RunError(f"{subject.title} was not evaluated yet, and its card is made of the record: {_again(subject)}")
    return EvaluationRecord.read(path)


def _verdict(subject: Subject) -> Verdict | None:
    """What sanity found of these weights, if it was asked."""
    if isinstance(subject, OfZoo):
        return subject.entry.verdict
    if isinstance(subject, OfBlueprint):
        return subject.published_verdict
    path = subject.place("sanity")
    verdict = Verdict.read(path) if path is not None and path.exists() else None
    return verdict if verdict is not None and verdict.model_digest == digest_of(subject.network) else None


def _purpose(subject: Subject, record: EvaluationRecord, good_for: str, not_for: str) -> Purpose:
    purposes = (subject.card.good_for, subject.card.not_for) if isinstance(subject, OfZoo) else ("", "")
    usual = Purpose.of(record)
    return Purpose(good_for or purposes[0] or usual.good_for, not_for or purposes[1] or usual.not_for)


def _again(subject: Subject) -> str:
    return f"poise evaluate {subject.spelled}" if subject.spelled else "poise.evaluate"
