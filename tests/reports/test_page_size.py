"""A page of 200 runs: made in less than ten seconds of one core, and smaller than 3 MB beside its runtime."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from poise.core.records import AttackRecord, EvaluationRecord
from poise.reports import write_report
from poise.reports.html import _asset

RUNS, EPOCHS, CLASSES = 200, 120, 10
METRICS = ("monitor/natural", "monitor/pgd-10", *(f"loss/joint/part{k}" for k in range(4)), "learning_rate/joint")
ATTACKS = ("PGD-20", "PGD-100", "CW-100", "APGD-CE", "AutoAttack")


def leave(root: Path, methods: int, images: int) -> None:
    """Folders as 200 runs of so many methods leave them: curves, a record of five attacks, a gallery of noise, which
    compresses worst.
    """
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, images)

    def predicted(accuracy: float) -> list[int]:
        wrong = generator.random(images) > accuracy
        return np.where(wrong, (labels + generator.integers(1, CLASSES, images)) % CLASSES, labels).tolist()

    for place in range(RUNS):
        method, seed = place % methods, place // methods
        folder = root / f"{method}-{seed}"
        (folder / "records").mkdir(parents=True)
        settings = {f"part{k}": {"size": k, "rate": method if k < 2 else 0, "kind": "x" * 20} for k in range(30)}
        experiment = {"name": f"Method {method}", "seed": seed, "selection": "held-out", "epochs": EPOCHS, **settings}
        (folder / "experiment.json").write_text(json.dumps(experiment))
        values = generator.random((EPOCHS, len(METRICS)))
        lines = [
            {"kind": "epoch", "epoch": epoch, **dict(zip(METRICS, row, strict=True))}
            for epoch, row in enumerate(values.tolist(), start=1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        attacks = [
            AttackRecord(
                name,
                {"type": name.partition("-")[0], "threat": {"type": "Linf", "epsilon": 8 / 255}, "steps": 20},
                predicted(0.6 - 0.04 * k - 0.001 * method),
                3.0,
            )
            for k, name in enumerate(ATTACKS)
        ]
        EvaluationRecord(
            model=f"Method {method}",
            checkpoint="selected",
            model_digest=f"{method}-{seed}",
            run=folder.name,
            group=f"group {method}",
            seed=seed,
            evaluation_seed=0,
            dataset="CIFAR10",
            split="test",
            classes=[f"class {k}" for k in range(CLASSES)],
            protocol="zipper-linf",
            labels=labels.tolist(),
            natural=predicted(0.8 + 0.001 * method),
            attacks=attacks,
            seconds=100.0,
            started="2026-01-02T03:04:05+00:00",
            device="cpu",
            versions={"poise": "0.1.0", "torch": "2.13.0"},
        ).write(folder / "records" / "selected.json")
        x = generator.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
        shown = labels[:12]
        np.savez(
            folder / "records" / "gallery-selected.npz",
            x=x,
            x_adv=np.clip(x / 255 + 8 / 255, 0, 1).astype(np.float32),
            label=shown,
            natural=shown,
            adversarial=(shown + np.arange(12) % 3) % CLASSES,
            attack=np.array("PGD-20"),
        )


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "images"), [(20, 10_000), (200, 1_000)])
def test_a_page_of_200_runs_is_made_fast_and_small(tmp_path: Path, methods: int, images: int) -> None:
    leave(tmp_path / "runs", methods, images)
    start = time.process_time()
    page = write_report(tmp_path / "runs", tmp_path / "page.html")
    seconds, size = time.process_time() - start, page.stat().st_size - len(_asset("page", "vega.js"))
    print(f"\n{RUNS} runs of {methods} methods on {images:,} images: {seconds:.1f} s, {size / 1e6:.2f} MB")
    assert seconds < 10 and size < 3e6
