"""A model card in Markdown, made of the record: every number in it is one of the record's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.core.progress import clock
from poise.core.records import EvaluationRecord
from poise.core.settings import spelled
from poise.core.verdicts import Verdict, summary
from poise.core.version import __version__
from poise.engine.blueprint import Blueprint
from poise.interop.robustbench.info import ModelInfo
from poise.reports import Run as Folder
from poise.reports import table, to_markdown
from poise.reports.sanity import verdict_markdown


@dataclass(frozen=True)
class Purpose:
    """What a network is good for and what not, in sentences."""

    good_for: str
    not_for: str

    @classmethod
    def of(cls, record: EvaluationRecord) -> Purpose:
        """What the record can vouch for, and no more."""
        threats = _threats(record)
        within = " or ".join(threats) or "no threat"
        return cls(
            f"Studying robustness of classifiers of {record.dataset} within {within}; as a baseline, or to try attacks"
            " on.",
            f"Anything where a wrong answer does harm. Its accuracy was measured on {record.count} images of"
            f" {record.dataset} alone, and under attack within {within} alone: other images, other changes and larger"
            " ones were not tried.",
        )


def card(plan: Blueprint, record: EvaluationRecord, verdict: Verdict | None, purpose: Purpose, address: str) -> str:
    """The card, with the hub's metadata before it."""
    shape = "x".join(map(str, plan.shape))
    folder = Folder(Path(), record.model, records={record.checkpoint: record})
    attacks = [f"- `{attack.name}`: `{json.dumps(attack.settings)}`" for attack in record.attacks]
    training_text = f", {clock(record.training_seconds)} of training" if record.training_seconds else ""
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in _metadata(plan, record).items()),
        "---",
        "",
        f"# {plan.name or record.model}",
        "",
        f"{record.model}: `{plan.network['type']}` for images {shape} in [0, 1] of {len(plan.classes)} classes, trained"
        f" on {record.dataset} with seed {record.seed}{training_text}.",
        "",
        "```python",
        "import poise",
        f'model = poise.load("{address}")  # images [B, {", ".join(map(str, plan.shape))}] in [0, 1] -> logits',
        "```",
        "",
        "## Accuracy under attack",
        "",
        to_markdown(table([folder], "all")).strip(),
        "",
        f"Percent of {record.count} images of the {record.split} set of {record.dataset}, by protocol"
        f" `{record.protocol}`, draws of seed {record.evaluation_seed}. Every prediction is in `record.json`;"
        f" `poise evaluate {address}` measures it anew.",
        *(["", *attacks] if attacks else []),
        "",
        "## Sanity",
        "",
        _of_sanity(verdict, address),
        "",
        "## Intended use",
        "",
        f"**Good for.** {purpose.good_for}",
        "",
        f"**Not for.** {purpose.not_for}",
        "",
        "## Files",
        "",
        "`model.safetensors` (weights), `config.json` (what builds the network; nothing of it is executed),"
        " `record.json`, `sanity.json` where it was asked, `model_info/` (RobustBench's description). Made by Poise"
        f" {record.versions.get('poise', __version__)}.",
        "",
    ]
    return "\n".join(lines)


def _of_sanity(verdict: Verdict | None, address: str) -> str:
    if verdict is None:
        return f"Nobody asked yet whether these numbers can be believed: `poise sanity {address}`."
    return f"**{summary(verdict.findings)}**, on {verdict.count} images.\n\n{verdict_markdown(verdict).strip()}"


def _metadata(plan: Blueprint, record: EvaluationRecord) -> dict[str, Any]:
    """What the hub reads; JSON is YAML."""
    metrics = [{"type": "accuracy", "name": "natural accuracy", "value": round(record.natural_accuracy, 4)}]
    metrics += [
        {"type": "accuracy", "name": f"accuracy under {attack.name}", "value": round(record.accuracy(attack.name), 4)}
        for attack in record.attacks
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": record.dataset, "type": record.dataset.lower(), "split": record.split},
        "metrics": metrics,
    }
    return {
        "library_name": "poise",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "poise", "pytorch"],
        "model-index": [{"name": plan.name or record.model, "results": [result]}],
    }


def _threats(record: EvaluationRecord) -> list[str]:
    """Each once, such as "Linf 8/255"."""
    settings: list[Mapping[str, Any]] = [attack.settings.get("threat", {}) for attack in record.attacks]
    threat_texts = (f"{threat['type']} {spelled(threat['epsilon'])}" for threat in settings if "epsilon" in threat)
    return list(dict.fromkeys(threat_texts))


def info_of(record: EvaluationRecord, plan: Blueprint) -> dict[tuple[str, str], ModelInfo]:
    """RobustBench's descriptions by data set and threat model: of each norm one, at its largest epsilon.

    autoattack_acc is given only where all of AutoAttack's standard version was run.
    """
    infos: dict[tuple[str, str], ModelInfo] = {}
    by_norm: dict[str, list[Any]] = {}
    for attack in record.attacks:
        if threat := attack.settings.get("threat"):
            by_norm.setdefault(threat["type"], []).append(attack)
    for norm, attacks in by_norm.items():
        epsilon = max(attack.settings["threat"]["epsilon"] for attack in attacks)
        whole = [
            record.accuracy(attack.name)
            for attack in attacks
            if attack.settings["type"] == "AutoAttack"
            and attack.settings.get("version") == "standard"
            and attack.settings["threat"]["epsilon"] == epsilon
        ]
        info = ModelInfo.of(
            record.dataset.lower(),
            norm,
            epsilon,
            record.natural_accuracy,
            whole[0] if whole else 0.0,
            architecture=plan.network["type"],
            name=plan.name or record.model,
        )
        infos[record.dataset.lower(), norm] = info if whole else _without_autoattack(info)
    return infos


def _without_autoattack(info: ModelInfo) -> ModelInfo:
    note = "AutoAttack's standard version was not run; see record.json"
    return dataclasses.replace(info, autoattack_acc=None, footnote=note)
