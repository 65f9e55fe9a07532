"""The run folder: experiment.json, run.json, metrics.jsonl, checkpoints/, records/, report.html."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from poise.core.errors import CheckpointError, RunError
from poise.core.records import write_text
from poise.core.settings import read_json, to_json
from poise.engine.checkpoints import load_into, read_facts, read_tensors, write_tensors
from poise.engine.experiment import Experiment


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    path: Path

    @classmethod
    def create(cls, path: Path, experiment: Experiment, about: dict[str, Any]) -> Run:
        """Make the folder. Raises: RunError when there is something in it already."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"; to go on with it: poise train --resume {path}" if (path / "experiment.json").exists() else ""
            raise RunError(f"{path} exists and is not empty{hint}")
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_text(path / "run.json", json.dumps(about, indent=1))
            write_text(path / "experiment.json", json.dumps(to_json(experiment), indent=1))
        except OSError as error:
            raise RunError(f"the run folder {path} cannot be written: {error.strerror or error}") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Raises: RunError when the folder is missing or not a run folder."""
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"there is no run folder {path}")
        if not (path / "experiment.json").is_file():
            inside = sorted(child.name for child in path.iterdir() if (child / "experiment.json").is_file())
            hint = f"; the runs inside it are {', '.join(inside)}" if inside else ""
            raise RunError(f"{path} is not a run folder: it has no experiment.json{hint}")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def experiment(self) -> Experiment:
        return read_json(Experiment, (self.path / "experiment.json").read_text(), str(self.path / "experiment.json"))

    @property
    def about(self) -> dict[str, Any]:
        """What the run was started with that is no setting: versions, device, digests, imported files."""
        try:
            return json.loads((self.path / "run.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"{self.path / 'run.json'} is missing or damaged: {error}") from None

    def weights_path(self, which: str) -> Path:
        """Deployed weights: "selected", "last" or "epoch 80"."""
        return self.path / "checkpoints" / which.replace(" ", "_")

    def save_weights(self, which: str, network: nn.Module, facts: dict[str, Any]) -> str:
        """Write the deployed network's weights; returns their digest."""
        return write_tensors(self.weights_path(which), network.state_dict(), facts)

    def network(self, which: str = "selected") -> nn.Module:
        """The deployed network in evaluation mode, images in [0, 1] to logits, on the CPU. Raises: CheckpointError, RunError."""
        path = self.weights_path(which)
        if not path.with_suffix(".safetensors").exists():
            known = sorted(file.stem for file in (self.path / "checkpoints").glob("*.safetensors") if not file.stem.startswith("step-"))
            raise CheckpointError(f"{self.path} has no weights {which!r}; it has {', '.join(known) or 'none yet'}")
        weights, facts = read_tensors(path)
        network = self.experiment.model.build(tuple(facts["shape"]), len(facts["classes"]), self.experiment.seed)
        network = network.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
        load_into(network, weights, str(path.with_suffix(".safetensors")))
        return network.eval()

    def facts(self, which: str = "selected") -> dict[str, Any]:
        """What is known of the deployed weights: epoch, monitors, shape, classes, digest."""
        return read_facts(self.weights_path(which))

    # -- complete checkpoints, to go on from --------------------------------------------------------------------------

    def save_state(self, step: int, state: dict[str, Tensor], facts: dict[str, Any], keep: int, for_good: bool) -> None:
        """Write a complete checkpoint and delete those beyond the last `keep` that are not kept for good."""
        write_tensors(self.path / "checkpoints" / f"step-{step:09d}", state, {"step": step, "for_good": for_good, **facts})
        spare = [path for path in self.states() if not _kept_for_good(path)][keep:]
        for path in spare:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)

    def states(self) -> list[Path]:
        """Complete checkpoints (without suffix), the newest first."""
        found = (self.path / "checkpoints").glob("step-*.json")
        return sorted((path.with_suffix("") for path in found if re.fullmatch(r"step-\d{9}", path.stem)), reverse=True)

    def newest_state(self) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
        """The newest complete checkpoint that can be read, with a sentence for each damaged one passed over; None if there are none.

        Raises: CheckpointError when there are checkpoints and all of them are damaged.
        """
        warnings: list[str] = []
        for path in self.states():
            try:
                state, facts = read_tensors(path)
                return state, facts, warnings
            except CheckpointError as error:
                warnings.append(f"{error}; going back to the checkpoint before it")
        if warnings:
            raise CheckpointError(f"every checkpoint of {self.path} is damaged; the newest: {warnings[0].partition(';')[0]}")
        return None

    # -- metrics ------------------------------------------------------------------------------------------------------

    def append_metrics(self, line: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_metrics(self, step: int) -> None:
        """Forget the lines written after `step`, which will be written again; a half-written last line goes too."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for text in path.read_text().splitlines():
            try:
                if json.loads(text)["step"] <= step:
                    kept.append(text)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        write_text(path, "".join(f"{text}\n" for text in kept))


def _kept_for_good(path: Path) -> bool:
    try:
        return bool(read_facts(path).get("for_good"))
    except CheckpointError:
        return False


def load(run: str | Path, which: str = "selected") -> nn.Module:
    """The network of a run folder in evaluation mode: images [B, C, H, W] in [0, 1] to logits [B, classes].

    which: "selected" (by the run's criterion), "last" or "epoch N". Raises: RunError, CheckpointError.
    """
    return Run.open(run).network(which)
