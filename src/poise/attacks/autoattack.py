"""AutoAttack: an ensemble of attacks without free parameters, one after the other on the examples that still stand.

`AutoAttack()(model, x, y)` attacks one batch; `AutoAttack().run(model, x, y, state_path=...)` a whole data set: compact, seeded
by example, resumable, with the verdict taken in the network's own precision on the images that are returned.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from poise.attacks.apgd import APGD
from poise.attacks.attack import Attack, check_images, check_labels, check_logits
from poise.attacks.compact import CompactAttack, Examples, Lanes, Network, find_batch_size, logits_of
from poise.attacks.fab import FAB
from poise.attacks.square import Square
from poise.core import papers
from poise.core.errors import InputError, RunError, SettingsError, did_you_mean
from poise.core.modes import crafting
from poise.core.records import write_bytes
from poise.core.seeds import Draw, key_of
from poise.core.settings import settings, to_json
from poise.threats import Linf, Threat

Version = Literal["standard", "plus", "rand", "custom"]
ROBUST, MISCLASSIFIED = -1, -2
_FORMAT = "poise.autoattack.1"

PUBLISHED: dict[str, CompactAttack] = {
    "apgd-ce": APGD(),
    "apgd-dlr": APGD(loss="dlr"),
    "apgd-t": APGD(loss="targeted_dlr"),
    "fab": FAB(),
    "fab-t": FAB(targeted=True),
    "square": Square(rescale=False),
}
"""The components by their published names, with the budgets of the standard version."""
VERSIONS: dict[str, tuple[CompactAttack, ...]] = {
    "standard": tuple(PUBLISHED[name] for name in ("apgd-ce", "apgd-t", "fab-t", "square")),
    "plus": (APGD(restarts=5), APGD(loss="dlr", restarts=5), FAB(restarts=5), *(PUBLISHED[n] for n in ("square", "apgd-t", "fab-t"))),
    "rand": (APGD(eot_iterations=20), APGD(loss="dlr", eot_iterations=20)),
}


@settings
class AutoAttack(Attack):
    """Croce & Hein 2020a. An example counts as robust if every component fails on it; each attacks only what the ones before left.

    standard: APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5000 queries). plus: APGD-CE and APGD-DLR with 5 restarts,
    FAB with 5, Square, APGD-T, FAB-T. rand, for randomised networks: APGD-CE and APGD-DLR averaging 20 gradients.
    """

    paper = papers.AUTOATTACK
    threat: Threat = Linf()
    version: Version = "standard"
    attacks_to_run: tuple[str, ...] = ()
    """With "custom": names such as ("apgd-ce", "square"), run in this order with the budgets of the standard version."""
    attacks: tuple[CompactAttack, ...] = ()
    """With "custom", instead of names: the components themselves, each used under this AutoAttack's threat."""

    def __post_init__(self) -> None:
        given = bool(self.attacks_to_run) + bool(self.attacks)
        if self.version != "custom" and given:
            raise SettingsError(f"attacks are chosen by version = {self.version!r}; use version='custom' to choose them yourself")
        if self.version == "custom" and given != 1:
            raise SettingsError("version = 'custom' needs either attacks_to_run or attacks, and not both")
        for name in self.attacks_to_run:
            if name not in PUBLISHED:
                raise SettingsError(f"attacks_to_run has no attack {name!r}{did_you_mean(name, PUBLISHED)}")

    @property
    def name(self) -> str:
        return "AutoAttack" if self.version == "standard" else f"AutoAttack-{self.version}"

    def components(self) -> tuple[CompactAttack, ...]:
        """The attacks in their order, under this threat."""
        chosen = VERSIONS.get(self.version) or self.attacks or tuple(PUBLISHED[name] for name in self.attacks_to_run)
        return tuple(dataclasses.replace(cast(Any, attack), threat=self.threat) for attack in chosen)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """For each example the image of the first component that fools the model, else the image itself."""
        if target is not None:
            raise InputError(f"target is given, but {self.name} is untargeted: it looks for any misclassification")
        z = x
        for place, attack in enumerate(self.components()):
            with torch.no_grad():
                rows = (model(z).argmax(1) == y).nonzero()[:, 0]
            if len(rows) == 0:
                break
            z = z.index_copy(0, rows, attack.perturb(model, x[rows], y[rows], draw[rows].within(place, attack.name)))
        return z

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int | None = None,
        memory_limit: int | None = None,
        fixed_shape: bool = False,
        precision: Literal["float32", "bfloat16"] = "float32",
        seed: int = 0,
        ids: Tensor | None = None,
        state_path: str | Path | None = None,
        save_seconds: float = 120.0,
        progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Attack images x [N, C, H, W] in [0, 1] with labels y [N], wherever they lie, on the model's device.

        batch_size: lanes of the padded batch, by default what serves the device and fits `memory_limit` (bytes). An attack that
        fewer examples enter uses the least power of two that holds them, unless `fixed_shape`. precision: of the search; verdicts
        are taken without autocast. ids: each example's number in its data set [N], which keys its draws. state_path: a file that
        is written at least every `save_seconds` and from which a stopped run goes on. progress: called after rounds of steps.
        Raises: InputError for bad x, y or ids; RunError if `state_path` is damaged or belongs to another run.
        """
        check_images(x)
        device = next((p.device for p in model.parameters()), x.device)
        x, y = x.to(device), y.to(device)
        with crafting(model, "evaluating"):
            with torch.no_grad():
                classes = check_logits(model(x[:1]), 1)
            check_labels(y, len(x), classes)
            ids = torch.arange(len(x), device=device) if ids is None else ids.to(device)
            if ids.shape != y.shape or len(ids.unique()) != len(ids):
                raise InputError(f"ids has shape {list(ids.shape)}, must be {len(x)} distinct numbers, one for each image")
            width = batch_size or find_batch_size(model, x, memory_limit)
            job = _Job(self, model, x, y, ids, width, fixed_shape, precision, seed, classes)
            saver = None if state_path is None else _Saver(Path(state_path), save_seconds, job)
            return job.work(saver, progress)


@dataclass(frozen=True)
class Progress:
    """Where a run stands. survivors: examples not yet broken by any attack; eta: seconds left for this attack, None at first;

    over: of each attack that is over its name, the survivors it left and its seconds.
    """

    attack: str
    number: int
    attacks: int
    entered: int
    done: int
    survivors: int
    seconds: float
    eta: float | None
    over: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class Result:
    """What a run found, tensors on the CPU.

    x_adv [N, C, H, W]: the adversarial image, or the natural one of robust examples; predicted [N]: the label predicted on it;
    natural [N]: that on the natural image; broken_by [N]: place in `attacks` of the attack that broke the example, else ROBUST
    or MISCLASSIFIED; survivors, seconds, shapes, steps: per attack, the examples left, its time, its number of lanes, and the
    lane-steps done and of these occupied by an example; notes: where a rule departed from the published protocol, in words.
    """

    x_adv: Tensor
    y: Tensor
    predicted: Tensor
    natural: Tensor
    broken_by: Tensor
    attacks: tuple[str, ...]
    survivors: tuple[int, ...]
    seconds: tuple[float, ...]
    shapes: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    seed: int

    @property
    def robust(self) -> Tensor:
        """Whether each example is classified correctly on its x_adv [N]."""
        return self.predicted == self.y

    @property
    def robust_accuracy(self) -> float:
        return float(self.robust.double().mean())

    @property
    def natural_accuracy(self) -> float:
        return float((self.natural == self.y).double().mean())


class _Job:
    """One run: the survivors' table, the attack in progress, and how both are written down."""

    def __init__(
        self,
        attack: AutoAttack,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        width: int,
        fixed_shape: bool,
        precision: str,
        seed: int,
        classes: int,
    ) -> None:
        self.model, self.x, self.y, self.ids, self.width, self.fixed_shape = model, x, y, ids, width, fixed_shape
        self.precision, self.seed, self.classes, self.components = precision, seed, classes, attack.components()
        self.natural = logits_of(model, x, width)
        self.x_adv = x.clone()
        self.broken_by = torch.where(self.natural.argmax(1) == y, ROBUST, MISCLASSIFIED)
        self.log = torch.zeros(len(self.components), 5, dtype=torch.float64)
        """Per attack: survivors, seconds, lanes, lane-steps, occupied lane-steps."""
        self.place = 0
        self.again = False
        """Whether the attack in progress is the float32 search of what the bfloat16 search claimed in vain."""
        self.lanes: Lanes | None = None
        self.entering = torch.zeros(0, dtype=torch.int64, device=x.device)
        digest = blake2b(json.dumps([to_json(attack), seed, width, fixed_shape, precision, list(x.shape)]).encode())
        for tensor in (x, y, ids, *model.state_dict().values()):
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        self.fingerprint = digest.hexdigest()[:32]

    def work(self, saver: _Saver | None, progress: Callable[[Progress], None] | None) -> Result:
        if saver is not None:
            saver.load()
        while self.place < len(self.components):
            attack = self.components[self.place]
            if self.lanes is None:
                self.enter((self.broken_by == ROBUST).nonzero()[:, 0])
            mark = time.perf_counter()
            while self.lanes is not None and self.lanes.advance():
                now = time.perf_counter()
                self.log[self.place, 1] += now - mark
                mark = now
                if progress is not None:
                    progress(self.report(attack, self.lanes))
                if saver is not None:
                    saver.save_if_due()
            self.harvest()
            self.log[self.place - (not self.again), 1] += time.perf_counter() - mark
        if saver is not None:
            saver.save()
        return self.result()

    def enter(self, rows: Tensor) -> None:
        """Begin the attack in progress on these examples; `lanes` stays None where there are none."""
        self.entering = rows
        if len(rows) == 0:
            return
        attack = self.components[self.place]
        width = self.width if self.fixed_shape else min(self.width, max(4, 1 << (len(rows) - 1).bit_length()))
        draw = Draw(key_of(self.seed, "autoattack", self.place, attack.name), self.ids)
        pool = Examples(self.x, self.y, self.natural, draw)[rows]
        self.lanes = Lanes(attack.search(self.network(), self.classes), pool, width)
        self.log[self.place, 2] = width

    def network(self) -> Network:
        model, kind = self.model, self.x.device.type
        if self.precision == "float32" or self.again:
            return model

        def autocast(z: Tensor) -> Tensor:
            with torch.autocast(kind, torch.bfloat16):
                return model(z).to(z.dtype)

        return autocast

    def harvest(self) -> None:
        """Take over what the attack found, as far as a forward pass in full precision confirms it, and go to the next."""
        lanes, claimed = self.lanes, self.entering[:0]
        self.lanes = None
        if lanes is not None:
            self.log[self.place, 3:] += torch.tensor([lanes.lane_steps, lanes.useful_steps])
            claimed = self.entering[lanes.fooled]
        if lanes is not None and len(claimed):
            images = lanes.found[lanes.fooled]
            confirmed = logits_of(self.model, images, self.width).argmax(1) != self.y[claimed]
            self.x_adv[claimed[confirmed]] = images[confirmed]
            self.broken_by[claimed[confirmed]] = self.place
            claimed = claimed[~confirmed]
        self.again = self.precision != "float32" and not self.again and len(claimed) > 0
        if self.again:
            self.enter(claimed)
            return
        self.log[self.place, 0] = int((self.broken_by == ROBUST).sum())
        self.place += 1

    def report(self, attack: CompactAttack, lanes: Lanes) -> Progress:
        done, part = int(lanes.finished.sum()), lanes.share_done()
        seconds = float(self.log[self.place, 1])
        survivors = int((self.broken_by == ROBUST).sum()) - int(lanes.fooled.sum())
        eta = seconds * (1 - part) / part if part > 0 else None
        over = tuple((self.components[i].name, int(self.log[i, 0]), float(self.log[i, 1])) for i in range(self.place))
        return Progress(attack.name, self.place + 1, len(self.components), len(self.entering), done, survivors, seconds, eta, over)

    def snapshot(self) -> dict[str, Tensor]:
        rows = (self.broken_by >= 0).nonzero()[:, 0]
        saved = {"place": torch.tensor([self.place, self.again]), "log": self.log, "broken_by": self.broken_by}
        saved |= {"rows": rows, "images": self.x_adv[rows], "entering": self.entering}
        return saved | ({} if self.lanes is None else {f"lanes.{name}": values for name, values in self.lanes.snapshot().items()})

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        self.place, again = saved["place"].tolist()
        self.again, log = bool(again), saved["log"]
        self.broken_by = saved["broken_by"].to(self.x.device)
        self.x_adv[saved["rows"].to(self.x.device)] = saved["images"].to(self.x.device)
        inside = {name.removeprefix("lanes."): values for name, values in saved.items() if name.startswith("lanes.")}
        if inside:
            self.enter(saved["entering"].to(self.x.device))
            if self.lanes is not None:
                self.lanes.restore(inside)
        self.log = log

    def result(self) -> Result:
        predicted = logits_of(self.model, self.x_adv, self.width).argmax(1)
        notes = [note for attack in self.components for note in attack.notes(self.classes)]
        changed = int(((predicted == self.y) != (self.broken_by == ROBUST)).sum())
        if changed:
            notes.append(f"{changed} verdicts changed when the network was asked again: its output is not deterministic")
        survivors, seconds, shapes, done, useful = self.log.T.tolist()
        return Result(
            x_adv=self.x_adv.cpu(),
            y=self.y.cpu(),
            predicted=predicted.cpu(),
            natural=self.natural.argmax(1).cpu(),
            broken_by=self.broken_by.cpu(),
            attacks=tuple(attack.name for attack in self.components),
            survivors=tuple(int(value) for value in survivors),
            seconds=tuple(seconds),
            shapes=tuple(int(value) for value in shapes),
            steps=tuple((int(a), int(b)) for a, b in zip(done, useful, strict=True)),
            notes=tuple(notes),
            seed=self.seed,
        )


class _Saver:
    """Writes a job to its file, atomically, and reads it back."""

    def __init__(self, path: Path, seconds: float, job: _Job) -> None:
        self.path, self.seconds, self.job, self.last = path, seconds, job, time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.save()

    def save(self) -> None:
        tensors = {name: values.detach().cpu().clone().contiguous() for name, values in self.job.snapshot().items()}
        facts = {"format": _FORMAT, "fingerprint": self.job.fingerprint}
        write_bytes(self.path, safetensors.torch.save(tensors, metadata=facts))
        self.last = time.monotonic()

    def load(self) -> None:
        """Does nothing where there is no file yet. Raises: RunError for a damaged or foreign one."""
        if not self.path.exists():
            return
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise RunError(f"state_path = {self.path} cannot be read ({error}); remove it to start anew") from None
        if facts.get("format") != _FORMAT or facts.get("fingerprint") != self.job.fingerprint:
            raise RunError(
                f"state_path = {self.path} belongs to another run: model, images, labels, settings, seed and batch size must be the same"
            )
        self.job.restore(tensors)
