"""The run folder: experiment.json, run.json, metrics.jsonl, checkpoints/, records/, report.html."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from poise.core.documents import is_text_of, line_of, lines_in, opened, parse, read_lines, sealed, typed
from poise.core.errors import CheckpointError, NumericalError, RunError, SettingsError, StorageError
from poise.core.files import append_line, check_writable, read_text, refusing, sweep, write_text
from poise.core.finite import not_finite
from poise.core.holding import Hold, hold
from poise.core.settings import read_file, to_json
from poise.data import Data
from poise.engine.checkpoints import facts_file, load_into, read_facts, read_tensors, tensors_file, write_tensors
from poise.engine.experiment import Experiment
from poise.engine.history import History
from poise.evaluation.digests import digest_of
from poise.evaluation.journal import drop_others

_ABOUT: dict[str, Any] = {
    "group": str | None,
    "seed": int | None,
    "settings_sha256": str | None,
    "started": str,
    "versions": dict[str, str],
    "device": str,
    "processor": str,
    "precision": str,
    "imports": dict[str, str],
    "data_digest": str | None,
    "data_notes": list[str],
    "pool_digests": dict[str, str],
    "initial_digest": str | None,
    "ranks": int,
    "placement": dict[str, Any],
}
"""Types of what run.json says."""
_LEFT = ("run.json", ".lock.holder", ".lock")
"""What a run that could not be made leaves in its folder."""


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    path: Path

    @classmethod
    def to_be(cls, path: Path) -> Run:
        """A run that could be made at `path`. Raises: RunError when something is there already, StorageError when
        nothing can be.
        """
        with refusing(RunError, path):
            occupied = path.exists() and (not path.is_dir() or any(map(_counts, path.iterdir())))
            hint = f"; to go on with it: poise train --resume {path}" if (path / "experiment.json").exists() else ""
        if occupied:
            raise RunError(f"the run folder {path} exists and is not empty{hint}")
        check_writable(path / "experiment.json")
        return cls(path)

    def create(self, experiment: Experiment, about: dict[str, Any]) -> None:
        """Make the folder, whole or not at all; to be called under its lock. Raises: RunError where it was made since,
        StorageError.
        """
        self.to_be(self.path)
        settings = json.dumps(to_json(experiment), indent=1)
        identity = {"group": experiment.group, "seed": experiment.seed, "settings_sha256": _digest(settings)}
        try:
            write_text(self.path / "run.json", json.dumps(sealed({**identity, **about}), indent=1))
            write_text(self.path / "experiment.json", settings)
        except StorageError:
            for name in _LEFT:
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Raises: RunError when the folder is missing or not a run folder."""
        path = Path(path)
        with refusing(RunError, path):
            there, whole = path.is_dir(), (path / "experiment.json").is_file()
            inside = (
                sorted(child.name for child in path.iterdir() if (child / "experiment.json").is_file())
                if there and not whole
                else []
            )
        if not there:
            raise RunError(f"there is no run folder {path}")
        if not whole:
            hint = f"; the runs inside it are {', '.join(inside)}" if inside else ""
            raise RunError(f"{path} is not a run folder: it has no experiment.json{hint}")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def experiment(self) -> Experiment:
        try:
            return read_file(Experiment, self.path / "experiment.json")
        except SettingsError as error:
            with own_code(list(self.about.get("imports", {}))):
                raise error from None

    @property
    def about(self) -> dict[str, Any]:
        """What the run was started with that is no setting: versions, device, digests, imported files."""
        file = self.path / "run.json"
        try:
            # runs that were begun before it had a digest have none
            about = opened(parse(read_text(file)), required=False)
            for name in about.keys() & _ABOUT:
                typed(_ABOUT[name], about[name], name)
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is missing or damaged: {error}") from None
        return about

    @property
    def group(self) -> str:
        """The experiment's group as it was when the run was started: settings that Poise has got since are no part of
        it.
        """
        group_written = self.about.get("group") if (self.path / "run.json").exists() else None
        return str(group_written or self.experiment.group)

    def lock(self) -> Hold:
        """Keep other processes from training this run until the lock is released or this process ends.

        Raises: LockedError, which says who has it, StorageError.
        """
        return hold(self.path / ".lock", str(self.path), "is being trained")

    def check_unchanged(self, facts: Mapping[str, Any] | None = None, data: Data | None = None) -> None:
        """Refuse a folder that is not as its run was started: whatever trains, evaluates or reads the run asks this
        first.

        experiment.json must be what run.json has the digest of, or at least give the same group and seed; `facts`,
        those beside a checkpoint or weights (whose tensors `read_tensors` compares with their digest), must be of that
        group and seed; `data`, as the experiment loads it now, must have the digest that it had. Raises: RunError that
        names what was changed.
        """
        about, file = self.about, self.path / "experiment.json"
        begun_as = (about.get("group"), about.get("seed"))
        try:
            digest = about.get("settings_sha256")
            as_written = digest is None or is_text_of(read_text(file), digest)  # None: begun before digests were kept
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}") from None
        if not as_written and begun_as != (self.experiment.group, self.experiment.seed):
            raise RunError(f"{file} was changed since the run was started; start a new run with it instead")
        if facts is not None and begun_as != (facts.get("group", begun_as[0]), facts.get("seed", begun_as[1])):
            raise RunError(
                f"the checkpoints of {self.path} are of another run than its run.json; start a new run instead"
            )
        if data is not None and "data_digest" in about and not data.has(about["data_digest"]):
            raise RunError(f"the data set {data.name} was changed since the run was started; start a new run instead")

    def weights_path(self, which: str) -> Path:
        """Deployed weights: "selected", "last" or "epoch 80"."""
        return self.path / "checkpoints" / which.replace(" ", "_")

    def save_weights(self, which: str, network: nn.Module, facts: dict[str, Any]) -> str:
        """Write the deployed network's weights, of which a JSON fact "unbounded" names buffers that may be infinite;
        returns their digest.

        Raises: NumericalError for others that are not finite; what was there stays.
        """
        weights = network.state_dict()
        if bad := _diverged(weights, facts):
            where = f"the {which} weights of epoch {facts['epoch']}: {bad}"
            raise NumericalError(f"{where} is no longer finite; lower the learning rate, or set clip")
        digest, records = write_tensors(self.weights_path(which), weights, facts), self.path / "records"
        if any(records.glob(".*.unfinished")):  # evaluations of the weights that were there before will not go on
            drop_others(records, which.replace(" ", "_"), digest_of(network))
        return digest

    def whole(self, which: str) -> str:
        """Why these deployed weights cannot be used, in a clause; empty where they can."""
        try:
            weights, facts = read_tensors(self.weights_path(which))
            self.check_unchanged(facts)
        except (CheckpointError, RunError) as error:
            return str(error)
        return f"{bad} is not finite" if (bad := _diverged(weights, facts)) else ""

    def network(self, which: str = "selected") -> nn.Module:
        """The deployed network in evaluation mode, images in [0, 1] to logits, on the CPU. Raises: CheckpointError,
        RunError.
        """
        path = self.weights_path(which)
        if not tensors_file(path).exists():
            checkpoints = sorted(
                file.stem
                for file in (self.path / "checkpoints").glob("*.safetensors")
                if not file.stem.startswith("step-")
            )
            raise CheckpointError(
                f"{self.path} has no weights {which!r}; it has {', '.join(checkpoints) or 'none yet'}"
            )
        weights, facts = read_tensors(path)
        self.check_unchanged(facts)
        experiment = self.experiment
        with own_code(list(self.about.get("imports", {}))):
            network = experiment.model.blank().build(tuple(facts["shape"]), len(facts["classes"]), experiment.seed)
        network = network.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
        load_into(network, weights, str(tensors_file(path)))
        network.eval()
        return network

    def facts(self, which: str = "selected") -> dict[str, Any]:
        """What is known of the deployed weights: epoch, monitors, shape, classes, digest."""
        return read_facts(self.weights_path(which))

    def trained(self) -> dict[str, Any]:
        """What records say of the training so far: `training_seconds` and `trained_on`, as far as it is known."""
        histories = [History()]
        for file in (self.path / "checkpoints").glob("*.json"):
            with contextlib.suppress(CheckpointError, ValueError):  # of those that are whole the longest
                histories.append(History.of(read_facts(file.with_suffix(""))))
        longest = max(histories, key=lambda history: history.seconds or 0.0)
        return {"training_seconds": longest.seconds or None, "trained_on": longest.processors}

    # -- complete checkpoints, to go on from --------------------------------------------------------------------------

    def save_state(self, step: int, state: dict[str, Tensor], facts: dict[str, Any], keep: int, for_good: bool) -> None:
        """Write a complete checkpoint and delete those beyond the last `keep` that are not kept for good.

        Those of later steps were damaged and passed over when the run was resumed; they go too.
        """
        path_written = self.path / "checkpoints" / f"step-{step:09d}"
        write_tensors(path_written, state, {"step": step, "for_good": for_good, **facts})
        present = self.states()
        later = [path for path in present if path > path_written]
        passing = [path for path in present if path <= path_written and not _kept_for_good(path)]
        for path in [*later, *passing[keep:]]:
            facts_file(path).unlink(missing_ok=True)
            tensors_file(path).unlink(missing_ok=True)

    def states(self) -> list[Path]:
        """Complete checkpoints (without suffix), damaged ones too, the newest first."""
        paths = {path.with_suffix("") for path in (self.path / "checkpoints").glob("step-*")}
        return sorted((path for path in paths if re.fullmatch(r"step-\d{9}", path.name)), reverse=True)

    def newest_state(self) -> tuple[tuple[dict[str, Tensor], dict[str, Any]] | None, list[str]]:
        """The newest complete checkpoint that can be read and is finite, None if there is none; and a sentence for each
        one passed over.

        Raises: CheckpointError when checkpoints were finished and all of them are damaged.
        """
        warnings: list[str] = []
        for path in self.states():
            try:
                return self.state(path), warnings
            except CheckpointError as error:
                warnings.append(f"{error}; going back to what was saved before it")
        if any(facts_file(path).exists() for path in self.states()):
            raise CheckpointError(
                f"every checkpoint of {self.path} is damaged; the newest: {warnings[0].partition(';')[0]}"
            )
        return None, warnings

    @staticmethod
    def state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A complete checkpoint. Raises: CheckpointError where it is damaged or what a learner holds is not finite."""
        state, facts = read_tensors(path)
        if bad := _diverged({name: tensor for name, tensor in state.items() if name.startswith("learner/")}, facts):
            raise CheckpointError(f"{tensors_file(path)} was saved when training had diverged: {bad} is not finite")
        return state, facts

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        sweep(self.path.rglob(".*.part"))

    # -- metrics ------------------------------------------------------------------------------------------------------

    def append_metrics(self, line: dict[str, Any]) -> None:
        append_line(self.path / "metrics.jsonl", line_of(line))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines written so far, in order (see `read_lines`)."""
        return read_lines(self.path / "metrics.jsonl")

    def truncate_metrics(self, step: int) -> list[str]:
        """Forget the lines written after `step`, which will be written again; a half-written last line goes too.

        Damaged lines are dropped; returns a sentence for each.
        """
        path = self.path / "metrics.jsonl"
        entries, bad_lines = lines_in(path)
        if path.exists():
            write_text(path, "".join(f"{line_of(entry)}\n" for entry in entries if entry.get("step", step) <= step))
        return [f"{path} is damaged at {clause}; that line is dropped" for clause in bad_lines]


@contextlib.contextmanager
def own_code(files: list[str]) -> Iterator[None]:
    """Where settings cannot be read that were made with the user's own files, say to import these again. Raises:
    SettingsError.
    """
    try:
        yield
    except SettingsError as error:
        if not files:
            raise
        again = " ".join(f"--import {file}" for file in files)
        raise SettingsError(f"{error}; this run was made with your own code, so pass it again: {again}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _counts(path: Path) -> bool:
    """Whether a file makes its folder occupied: what `Run.create` leaves when killed does not."""
    return path.name not in _LEFT and not path.name.endswith(".part")


def _diverged(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """The first tensor that is not finite and is not one that never was; empty where there is none."""
    quantities = tuple(facts.get("unbounded", ()))
    return next((name for name in not_finite(tensors) if not name.endswith(quantities)), "")


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
