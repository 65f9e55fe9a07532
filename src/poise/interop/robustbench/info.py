"""RobustBench's model_info files, and the text that asks for a place on its leaderboard."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.core.documents import parse
from poise.core.errors import RunError
from poise.core.files import read_text, write_text


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model_info file: accuracies are texts in percent with two decimals, eps is a text such as "8/255"."""

    link: str | None = None
    name: str | None = None
    """The paper's title."""
    authors: str | None = None
    additional_data: bool | None = None
    number_forward_passes: int | None = None
    dataset: str | None = None
    venue: str | None = None
    architecture: str | None = None
    eps: str | None = None
    clean_acc: str | None = None
    reported: str | None = None
    """Robust accuracy that the paper claims."""
    autoattack_acc: str | None = None
    external: str | None = None
    """Robust accuracy by a stronger attack of somebody else's."""
    corruptions_acc: str | None = None
    corruptions_mce: str | None = None
    corruptions_acc_3d: str | None = None
    corruptions_mce_3d: str | None = None
    footnote: str | None = None
    unreliable: bool | None = None

    @classmethod
    def of(
        cls, dataset: str, threat_model: str, eps: float | None, clean: float, robust: float, **about: Any
    ) -> ModelInfo:
        """From accuracies in [0, 1]; about: further fields, such as name, authors and architecture."""
        field = "corruptions_acc" if threat_model == "corruptions" else "autoattack_acc"
        numbers = {"clean_acc": f"{100 * clean:.2f}", field: f"{100 * robust:.2f}"}
        epsilon_text = None if eps is None else written_epsilon(eps)
        return cls(
            **{
                "dataset": dataset,
                "eps": epsilon_text,
                "number_forward_passes": 1,
                "unreliable": False,
                **numbers,
                **about,
            }
        )

    @classmethod
    def read(cls, path: str | Path) -> ModelInfo:
        """Raises: RunError for a file that is missing or not a model_info file; unknown fields are ignored."""
        try:
            data = dict(parse(read_text(path)))
            return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls) if field.name in data})
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path} cannot be read as a model_info file: {error}") from None

    def write(self, path: str | Path) -> Path:
        """Write as JSON; a file that is there keeps the fields that are None here."""
        path = Path(path)
        before = dataclasses.asdict(ModelInfo.read(path)) if path.exists() else {}
        data = {**before, **{name: value for name, value in dataclasses.asdict(self).items() if value is not None}}
        required_names = ("external", "corruptions_acc", "corruptions_mce", "corruptions_acc_3d", "corruptions_mce_3d")
        fields_in_order = {field.name: data.get(field.name) for field in dataclasses.fields(self)}
        fields_written = {
            name: value for name, value in fields_in_order.items() if value is not None or name not in required_names
        }
        return write_text(path, json.dumps(fields_written, indent=2))


def written_epsilon(eps: float) -> str:
    """ "8/255" for whole numbers of grey levels, else the number."""
    levels = eps * 255
    return f"{round(levels)}/255" if round(levels) and abs(levels - round(levels)) < 1e-6 else f"{eps:g}"


def info_path(dataset: str, threat_model: str, model_name: str) -> Path:
    """model_info/<dataset>/<threat_model>/<model_name>.json in the current folder."""
    return Path("model_info") / dataset / threat_model / f"{model_name}.json"


def new_model_issue(info: ModelInfo, model_name: str, threat_model: str, checkpoint: str = "") -> str:
    """The text of a [New Model] request; `model_name` is <Author><Year><FirstWord>, `checkpoint` the address of weights
    and code.
    """
    common = threat_model == "corruptions"
    claim = {
        "Architecture": info.architecture,
        "Threat Model": "Common Corruptions" if common else threat_model,
        "eps": "N/A" if common else info.eps,
        "Clean accuracy": info.clean_acc,
        "Robust accuracy": info.corruptions_acc if common else info.autoattack_acc,
        "Additional data": None if info.additional_data is None else str(info.additional_data).lower(),
        "Evaluation method": (
            "mean accuracy over 15 corruptions of 5 severities" if common else "AutoAttack, standard version (Poise)"
        ),
        "Checkpoint and code": checkpoint,
    }
    paper = {"Paper Title": info.name, "Paper URL": info.link, "Paper authors": info.authors}

    def lines(fields: dict[str, str | None]) -> str:
        return "\n".join(f"- **{name}**: {value or ''}".rstrip() for name, value in fields.items())

    return (
        f"[New Model] {model_name}\n\n# Paper Information\n\n{lines(paper)}\n\n# Leaderboard Claim(s)\n\n## Model"
        f" 1\n\n{lines(claim)}\n\n# Model Zoo:\n\n- [ ] I want to add my models to the Model Zoo\n- [ ] I use an"
        " architecture that is **not** included there\n- [ ] I agree to release my model(s) under MIT license"
        " **OR**\n- [ ] under a custom license, located here:\n"
    )
