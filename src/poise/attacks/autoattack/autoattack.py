"""AutoAttack: an ensemble of attacks without free parameters, one after the other on the examples that still stand.

`AutoAttack()(model, x, y)` attacks one batch; `AutoAttack().run(model, x, y, state_path=...)` a whole data set:
compact, seeded by example, resumable, with the verdict taken in the network's own precision on the images that are
returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.job import MISCLASSIFIED, ROBUST, Job, Plan, Result, Status
from poise.attacks.autoattack.lanes import find_batch_size
from poise.attacks.autoattack.ranks import Ranks
from poise.attacks.autoattack.square import Square
from poise.attacks.autoattack.state import StateFile, fingerprint_of, width_of
from poise.attacks.checks import check_finite, check_images, check_labels, check_network, plain
from poise.core import papers
from poise.core.answers import answer, count_classes, lent
from poise.core.distributed import ALONE, World
from poise.core.errors import InputError, Interrupted, RunError, SettingsError, did_you_mean
from poise.core.exact import arithmetic_named, exact
from poise.core.files import check_writable
from poise.core.modes import crafting
from poise.core.processors import check_bfloat16, native_bfloat16
from poise.core.seeds import Draw
from poise.core.settings import settings, to_json, whole
from poise.threats import L1, Linf, Threat

Version = Literal["standard", "plus", "rand", "malt", "custom"]
SearchPrecision = Literal["auto", "float32", "bfloat16", "fp32", "bf16"]

PUBLISHED: dict[str, CompactAttack] = {
    "apgd-ce": APGD(),
    "apgd-dlr": APGD(loss="dlr"),
    "apgd-t": APGD(loss="targeted_dlr"),
    "fab": FAB(),
    "fab-t": FAB(targeted=True),
    "square": Square(rescale=False),
}
"""The components by their published names, with the budgets of the standard version."""
FURTHER: dict[str, CompactAttack] = {
    "apgd-malt": APGD(loss="targeted_dlr", targets_by="malt"),
    "apgd-pma": APGD(loss="probability_margin"),
}
"""Attacks of later papers, which a custom version may have and no published one has."""
VERSIONS: dict[str, tuple[CompactAttack, ...]] = {
    "standard": tuple(PUBLISHED[name] for name in ("apgd-ce", "apgd-t", "fab-t", "square")),
    "plus": (
        APGD(restarts=5),
        APGD(loss="dlr", restarts=5),
        FAB(restarts=5),
        *(PUBLISHED[n] for n in ("square", "apgd-t", "fab-t")),
    ),
    "rand": (APGD(eot_iterations=20), APGD(loss="dlr", eot_iterations=20)),
    "malt": (PUBLISHED["apgd-ce"], FURTHER["apgd-malt"]),
}


STANDARD_L1: tuple[CompactAttack, ...] = (
    APGD(threat=L1(), radii=(3, 2, 1), restarts=5),
    APGD(threat=L1(), radii=(3, 2, 1), loss="targeted_dlr", targets=5),
    *(PUBLISHED[name] for name in ("fab-t", "square")),
)
"""The standard version in L1 (Croce & Hein 2021)."""


@settings
class AutoAttack(Attack):
    """Croce & Hein 2020a. An example counts as robust if every component fails on it; each attacks only what the ones
    before left.

    standard: APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5000 queries). plus: APGD-CE and APGD-DLR with 5
    restarts, FAB with 5, Square, APGD-T, FAB-T. rand, for randomised networks: APGD-CE and APGD-DLR averaging 20
    gradients. In L1 standard has five restarts of APGD-CE and five targets of APGD-T, within 3, 2 and 1 epsilons (Croce
    & Hein 2021). malt, which is no version of theirs and for many classes: APGD-CE, and APGD-T towards the 9 classes
    that MALT finds nearest (Melamed et al. 2024).
    """

    paper = papers.AUTOATTACK
    threat: Threat = Linf()
    version: Version = "standard"
    attacks_to_run: tuple[str, ...] = ()
    """With "custom": names such as ("apgd-ce", "square"), run in this order with the budgets of the standard version.
    """
    attacks: tuple[CompactAttack, ...] = ()
    """With "custom", instead of names: the components themselves, each used under this AutoAttack's threat."""

    def __post_init__(self) -> None:
        selections = bool(self.attacks_to_run) + bool(self.attacks)
        if self.version != "custom" and selections:
            raise SettingsError(
                f"attacks are chosen by version = {self.version!r}; use version='custom' to choose them yourself"
            )
        if self.version == "custom" and selections != 1:
            raise SettingsError("version = 'custom' needs either attacks_to_run or attacks, and not both")
        for name in self.attacks_to_run:
            if name not in PUBLISHED | FURTHER:
                raise SettingsError(f"attacks_to_run has no attack {name!r}{did_you_mean(name, PUBLISHED | FURTHER)}")

    @property
    def name(self) -> str:
        return "AutoAttack" if self.version == "standard" else f"AutoAttack-{self.version}"

    def components(self) -> tuple[CompactAttack, ...]:
        """The attacks in their order, under this threat."""
        versions = VERSIONS | ({"standard": STANDARD_L1} if self.threat.order == 1 else {})
        names = PUBLISHED | FURTHER
        chosen = versions.get(self.version) or self.attacks or tuple(names[name] for name in self.attacks_to_run)
        return tuple(dataclasses.replace(cast(Any, attack), threat=self.threat) for attack in chosen)

    def forwards(self) -> float:
        """Where every component attacks every image."""
        return sum(attack.forwards() for attack in self.components())

    def check_classes(self, classes: int) -> None:
        for attack in self.components():
            attack.check_classes(classes)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """For each example the image of the first component that fools the model, else the image itself."""
        if target is not None:
            raise InputError(f"target is given, but {self.name} is untargeted: it looks for any misclassification")
        z = x
        for place, attack in enumerate(self.components()):
            with torch.no_grad(), exact(z.device):
                logits = answer(model, z)
                check_finite(logits)
                rows = (logits.argmax(1) == y).nonzero()[:, 0]
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
        precision: SearchPrecision = "float32",
        seed: int = 0,
        ids: Tensor | None = None,
        state_path: str | Path | None = None,
        save_seconds: float = 120.0,
        progress: Callable[[Status], None] | None = None,
        world: World = ALONE,
    ) -> Result:
        """Attack images x [N, C, H, W] in [0, 1] with labels y [N], wherever they lie, on the model's device.

        batch_size: most lanes of the padded batch, by default what serves the device and fits `memory_limit` (bytes).
        Each attack takes what it and the examples that enter it need of them, unless `fixed_shape`. precision: of the
        search (see `search_precision`); verdicts are taken without autocast. ids: each example's number in its data set
        [N], which keys its draws.
        state_path: a file from which a stopped run goes on, written at least every `save_seconds`, where an attack is
        over, and where `progress`, which is called after rounds of steps, raises Interrupted. It goes on with as many
        lanes as it was begun with.
        world: ranks that call this together with the same arguments (`poise.core.distributed.join()`); each attacks a
        share (of fewer images than ranks each attacks all), and each returns the result that one rank alone would.
        Raises: InputError for bad x, y or ids; SettingsError for other arguments out of range; StorageError or RunError
        if there is no place for `state_path`, or it is damaged or belongs to another run or number of ranks; RankError
        if another rank ended.
        """
        check_network(model)
        check_images(x)
        self.threat.check_shape(x.shape[1:])
        _check(batch_size, memory_limit, save_seconds, state_path, seed)
        world = world if len(x) >= world.size else ALONE
        ranks, part = Ranks(world, 2 * len(self.components())), world.share(len(x))
        device = next((p.device for p in model.parameters()), x.device)
        precision = search_precision(precision, device)
        with torch.inference_mode(False), crafting(model, "evaluating"):
            classes = count_classes(model, plain(x[:1]).to(device))
            check_labels(y, len(x), classes)
            self.check_classes(classes)
            ids = torch.arange(len(x)) if ids is None else _checked(ids, len(x))
            x, y = plain(x), plain(y)
            part_images, labels, numbers = (values[part].to(device) for values in (x, y, ids))
            saved_width = None if state_path is None else width_of(state_path, world)
            with lent(model, part_images):
                width = batch_size or ranks.least(saved_width or find_batch_size(model, part_images, memory_limit))
            arguments = [to_json(self), seed, width, fixed_shape, precision, list(x.shape)]
            fingerprint = fingerprint_of(arguments, (x, y, ids, *model.state_dict().values()))
            ranks.check_alike(fingerprint)
            plan = Plan(self.components(), width, fixed_shape, precision, seed, classes)
            with lent(model, part_images):
                job = Job(plan, model, part_images, labels, numbers, ranks)
                state = None if state_path is None else StateFile(state_path, save_seconds, fingerprint, width, world)
                if state is not None:
                    state.load(job)
                try:
                    job.work(progress, None if state is None else state.keep)
                except Interrupted:
                    if state is not None:
                        state.save(job)
                    raise
                return job.result(x, y)


def _checked(ids: object, count: int) -> Tensor:
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        raise InputError(f"ids has dtype {getattr(ids, 'dtype', type(ids).__name__)}, must be torch.int64")
    if ids.shape != (count,) or len(ids.unique()) != count:
        raise InputError(f"ids has shape {list(ids.shape)}, must be {count} distinct numbers, one for each image")
    return plain(ids)


def _check(
    batch_size: object, memory_limit: object, save_seconds: float, state_path: str | Path | None, seed: object
) -> None:
    """What `run` was given, before any work."""
    if batch_size is not None and (not whole(batch_size) or batch_size < 1):
        raise SettingsError(f"batch_size = {batch_size!r}, must be at least 1")
    if memory_limit is not None and not whole(memory_limit):
        raise SettingsError(f"memory_limit = {memory_limit!r}, must be a whole number of bytes")
    if not whole(seed):
        raise SettingsError(f"seed = {seed!r}, must be a whole number")
    if isinstance(save_seconds, bool) or not isinstance(save_seconds, int | float) or not save_seconds >= 0:
        raise SettingsError(f"save_seconds = {save_seconds!r}, must be at least 0")
    if state_path is not None and not isinstance(state_path, str | Path):
        raise SettingsError(f"state_path is {type(state_path).__name__}, must be the path of a file")
    if state_path is not None:
        if not Path(state_path).parent.is_dir():
            raise RunError(f"state_path = {state_path}: there is no folder {Path(state_path).parent}")
        check_writable(state_path)


def search_precision(name: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The arithmetic of a search: "auto" is bfloat16 on a GPU or processor that computes it natively and float32
    elsewhere.

    Raises: SettingsError for an unknown name ("fp32" and "bf16" are known), or bfloat16 on a GPU that emulates it,
    unless forced.
    """
    full = str(arithmetic_named(name))
    if full not in ("auto", "float32", "bfloat16"):
        raise SettingsError(f"precision = {name!r}, must be 'auto', 'float32' or 'bfloat16'")
    if full == "bfloat16" and device.type == "cuda":
        check_bfloat16(device)
    return "bfloat16" if full == "bfloat16" or (full == "auto" and native_bfloat16(device)) else "float32"


__all__ = ["MISCLASSIFIED", "PUBLISHED", "ROBUST", "VERSIONS", "AutoAttack", "Result", "Status", "Version"]
