"""Small run folders made of plain JSON, as training and evaluation leave them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.core.records import AttackRecord, EvaluationRecord

PGD = {"type": "PGD", "threat": {"type": "Linf", "epsilon": 8 / 255}, "step_size": 2 / 255, "steps": 20}


def flip(labels: Sequence[int], wrong: Sequence[int]) -> list[int]:
    """Predictions that are wrong exactly at the places `wrong`."""
    return [(label + 1) % 4 if place in set(wrong) else label for place, label in enumerate(labels)]


@pytest.fixture
def make_record() -> Callable[..., EvaluationRecord]:
    def make(
        model: str = "TRADES",
        seed: int = 0,
        natural_wrong: Sequence[int] = (),
        attacks: dict[str, Sequence[int]] | None = None,
        settings: dict[str, Any] | None = None,
        count: int = 40,
        **changes: Any,
    ) -> EvaluationRecord:
        labels = [place % 4 for place in range(count)]
        attacks = {"PGD-20": range(20)} if attacks is None else attacks
        values: dict[str, Any] = {
            "model": model,
            "checkpoint": "selected",
            "model_digest": f"digest-{model}-{seed}",
            "run": f"{model}-{seed}",
            "group": f"{model}-abcd",
            "seed": seed,
            "evaluation_seed": 0,
            "dataset": "Digits",
            "split": "test",
            "classes": ["zero", "one", "two", "three"],
            "protocol": "standard",
            "labels": labels,
            "natural": flip(labels, natural_wrong),
            "attacks": [
                AttackRecord(name, settings or PGD, flip(labels, wrong), 1.5) for name, wrong in attacks.items()
            ],
            "seconds": 2.5,
            "started": "2026-01-02T03:04:05+00:00",
            "device": "cpu",
            "versions": {"poise": "0.1.0"},
        }
        return EvaluationRecord(**{**values, **changes})

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(*records: EvaluationRecord, name: str | None = None, epochs: int = 3, gallery: bool = False) -> Path:
        first = records[0]
        folder = tmp_path / "runs" / (name or first.run)
        folder.mkdir(parents=True)
        (folder / "experiment.json").write_text(
            json.dumps({"name": first.model, "seed": first.seed, "selection": "held-out"})
        )
        lines = [
            {"kind": "epoch", "epoch": e, "step": 10 * e, "monitor/natural": 0.3 * e, "loss/model/robust": 2.0 / e}
            for e in range(1, epochs + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for record in records:
            record.write(folder / "records" / f"{record.checkpoint}.json")
        if gallery:
            x = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
            labels = np.array([0, 1])
            np.savez(
                folder / "records" / "gallery-selected.npz",
                x=x,
                x_adv=(x / 255 + 8 / 255).astype(np.float32),
                label=labels,
                natural=labels,
                adversarial=labels[::-1],
                attack=np.array("PGD-20"),
            )
        return folder

    return make
