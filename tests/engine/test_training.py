"""A run is a function of its settings and its seed, and leaves exactly the files it promises."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from poise import recipes
from poise.attacks import AdaptivePGD
from poise.core.batches import Now
from poise.core.distributed import ALONE
from poise.core.errors import CheckpointError, InputError, NumericalError, RunError, SettingsError
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.data import Digits
from poise.engine import Experiment, Monitor, Run, resume, train
from poise.engine.checkpoints import read_tensors
from poise.engine.devices import choose_device
from poise.engine.experiment import remarks
from poise.engine.monitoring import select
from poise.engine.placement import Placement
from poise.engine.training import STATE, Meters, divided, prepare, restore
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.models import Network
from poise.objectives import ADP

Tiny = Callable[..., Experiment]
LINE = {
    "kind",
    "epoch",
    "step",
    "images_per_second",
    "monitor_seconds",
    "training_seconds",
    "monitor/natural",
    "monitor/pgd",
}


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("joint", {"learning_rate/joint", "loss/joint/robust"}),
        ("generalist", {"learning_rate/natural", "learning_rate/robust", "loss/natural/natural", "loss/robust/robust"}),
    ],
)
def test_same_seed_same_bits_and_complete_metrics(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, lines_of: Any, method: str, own: set[str]
) -> None:
    runs = [train(tiny_experiment(method, seed=seed), tmp_path / name) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, second, other = (fingerprint_of(run) for run in runs)
    assert first == second
    assert (
        set(first)
        == set(other)
        == {"metrics", *(f"{name}.safetensors" for name in ("selected", "last", "step-000000008", "step-000000012"))}
    )
    assert all(first[name] != other[name] for name in first)
    for number, line in enumerate(lines_of(runs[0]), start=1):
        assert set(line) == LINE | own
        assert (line["epoch"], line["step"]) == (number, 4 * number)
    assert len(lines_of(runs[0])) == 3


def test_the_group_is_the_same_across_seeds_and_no_other_change(tiny_experiment: Tiny) -> None:
    assert tiny_experiment(seed=0).group == tiny_experiment(seed=5).group
    assert tiny_experiment().group != tiny_experiment(epochs=4).group


MEASURED = [(0.9, 0.1), (0.5, 0.6), (0.6, 0.5), (0.4, 0.6), (0.3, 0.2)]
"""Natural and robust accuracy by epoch; epochs 2 and 3 tie in the sum, 2 and 4 in the robust accuracy."""


@pytest.mark.parametrize(
    ("criterion", "floor", "chosen"),
    [
        ("sum", 0.0, 3),
        ("robust", 0.0, 4),
        ("last", 0.0, 5),
        ("sum", 0.7, 1),
        ("robust", 0.5, 2),
        ("last", 0.9, 5),
        ("sum", 0.95, 3),
    ],
)
def test_selection_follows_the_criterion_above_the_floor_and_ties_go_to_the_later_epoch(
    tmp_path: Path, tiny_experiment: Tiny, criterion: str, floor: float, chosen: int
) -> None:
    experiment = tiny_experiment(criterion=criterion, natural_floor=floor, epochs=5)
    training = prepare(experiment, Run(tmp_path), experiment.data.load(), choose_device("cpu"), Progress(), None)
    network = experiment.method.deployed(training.learners)
    for epoch, (natural, robust) in enumerate(MEASURED, start=1):
        select(training, epoch, network, {"monitor/natural": natural, "monitor/pgd": robust})
    assert training.best["epoch"] == Run(tmp_path).facts()["epoch"] == chosen


def test_selected_and_last_weights_are_those_of_the_epochs_they_name(
    tmp_path: Path, tiny_experiment: Tiny, lines_of: Any
) -> None:
    run = train(tiny_experiment(epochs=4, keep_epochs=(1, 2, 3, 4)), tmp_path / "run")
    lines = lines_of(run)
    sums = [line["monitor/natural"] + line["monitor/pgd"] for line in lines]
    best = max(range(4), key=lambda at: (sums[at], at)) + 1
    assert run.facts("selected")["epoch"] == best
    assert run.facts("selected")["monitors"] == {
        key: lines[best - 1][key] for key in ("monitor/natural", "monitor/pgd")
    }
    for which, epoch in (("selected", best), ("last", 4)):
        assert run.facts(which)["sha256"] == run.facts(f"epoch {epoch}")["sha256"]


def shown_images(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Fills with the ids of all images that a learner is shown."""
    from poise.learners import Learner

    seen: set[int] = set()
    descend = Learner.descend

    def watched(self: Learner, objective: Any, batch: Any, now: Any) -> Any:
        seen.update(batch.ids.tolist())
        return descend(self, objective, batch, now)

    monkeypatch.setattr(Learner, "descend", watched)
    return seen


@pytest.mark.parametrize("selection", ["held-out", "test"])
def test_held_out_images_are_never_trained_on(
    tmp_path: Path, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    seen = shown_images(monkeypatch)
    experiment = tiny_experiment(selection=selection, epochs=1, held_out=0.25)
    data = experiment.data.load()
    training = prepare(experiment, Run(tmp_path / "x"), data, choose_device("cpu"), Progress(), None)
    train(experiment, tmp_path / "run")
    selecting = training.splits["selection"]
    everything = set(data.train.ids.tolist())
    if selection == "test":
        assert seen == everything
        assert torch.equal(selecting.ids, data.test.ids)
    else:
        held = set(selecting.ids.tolist())
        assert 25 <= len(held) <= 35
        assert seen == everything - held
        assert held <= everything


def test_checkpoints_kept_for_good_hold_all_learners_and_the_others_are_pruned(
    tmp_path: Path, tiny_experiment: Tiny
) -> None:
    run = train(tiny_experiment("generalist", epochs=6, keep_last=2, keep_epochs=(2, 5)), tmp_path / "run")
    assert [path.name for path in run.states()] == [f"step-{4 * epoch:09d}" for epoch in (6, 5, 4, 2)]
    for epoch in (2, 5):
        state, facts = read_tensors(run.path / "checkpoints" / f"step-{4 * epoch:09d}")
        assert facts["for_good"] is True
        assert {name.split("/")[1] for name in state if name.startswith("learner/")} == {"natural", "robust"}
        kinds = {name.split("/")[2] for name in state if name.startswith("learner/")}
        assert kinds == {"network", "average", "accumulator", "optimizer"}
        assert run.facts(f"epoch {epoch}")["epoch"] == epoch
        shares = [state[f"learner/{name}/accumulator/global/head.weight"] for name in ("robust", "natural")]
        assert torch.equal(run.network(f"epoch {epoch}").state_dict()["head.weight"], shares[0] + shares[1])


def test_monitors_and_checkpoints_come_as_often_as_asked(tmp_path: Path, tiny_experiment: Tiny, lines_of: Any) -> None:
    run = train(tiny_experiment(epochs=5, monitor_every=2, save_every=3, keep_last=9), tmp_path / "run")
    assert [line["epoch"] for line in lines_of(run) if "monitor/natural" in line] == [2, 4, 5]
    assert [path.name for path in run.states()] == ["step-000000020", "step-000000012"]
    assert run.facts("last")["epoch"] == 5


def first_loss(run: Run, lines: list[dict[str, Any]]) -> float:
    return lines[0]["loss/joint/robust"]


def test_the_file_that_a_network_begins_with_is_digested_and_may_not_change_before_the_first_checkpoint(
    tmp_path: Path, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "beginning.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setattr(Network, "beginning", lambda self: file)
    run = train(tiny_experiment(epochs=2), tmp_path / "run", until=1)
    assert run.about["initial_digest"] == hashlib.sha256(b"weights").hexdigest()
    file.write_bytes(b"other weights")
    for state in (run.path / "checkpoints").glob("step-*"):
        state.rename(tmp_path / state.name)
    with pytest.raises(RunError, match="what the network begins with was changed since the run was started"):
        resume(run.path)
    for state in tmp_path.glob("step-*"):
        state.rename(run.path / "checkpoints" / state.name)
    assert resume(run.path).facts("last")["epoch"] == 2, "a checkpoint holds all that it needs of it"


@pytest.mark.parametrize("kind", ["run", "file"])
def test_fine_tuning_starts_from_the_named_weights_and_records_their_digest(
    tmp_path: Path, tiny_experiment: Tiny, trained: Run, lines_of: Any, kind: str
) -> None:
    file = trained.path / "checkpoints" / "selected.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    start = tiny_experiment(initial=str(trained.path if kind == "run" else file), epochs=1)
    tuned, anew = train(start, tmp_path / "tuned"), train(tiny_experiment(epochs=1), tmp_path / "anew")
    assert tuned.about["initial_digest"] == digest
    assert anew.about["initial_digest"] is None
    assert first_loss(tuned, lines_of(tuned)) < first_loss(anew, lines_of(anew))
    training = prepare(
        start, tuned, start.data.load(), choose_device("cpu"), Progress(), trained.network().state_dict()
    )
    loaded = training.learners["joint"].network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in trained.network().state_dict().items())


def test_fine_tuning_goes_on_without_its_initial_weights_but_never_from_others(
    tmp_path: Path, tiny_experiment: Tiny, trained: Run
) -> None:
    file = tmp_path / "start.safetensors"
    file.write_bytes((trained.path / "checkpoints" / "last.safetensors").read_bytes())
    run = train(tiny_experiment(initial=str(file), epochs=2), tmp_path / "run")
    wanted = run.facts("last")["sha256"]
    for path in run.states()[:1]:
        path.with_suffix(".safetensors").unlink()
    file.unlink()
    assert resume(run.path).facts("last")["sha256"] == wanted
    for path in (run.path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="no weights file"):
        resume(run.path)
    others = {name: tensor + 1 for name, tensor in trained.network("last").state_dict().items()}
    file.write_bytes(safetensors.torch.save(others))
    with pytest.raises(RunError, match=r"start\.safetensors.* was changed since the run was started"):
        resume(run.path)


def test_float64_trains_evaluates_and_deploys_float64(tmp_path: Path, tiny_experiment: Tiny) -> None:
    run = train(tiny_experiment("generalist", precision="float64", epochs=1), tmp_path / "run")
    state, _ = read_tensors(run.states()[0])
    floating: list[Tensor] = [
        tensor for name, tensor in state.items() if tensor.is_floating_point() and not name.startswith("meter/")
    ]
    assert floating
    assert {tensor.dtype for tensor in floating} == {torch.float64}
    assert {parameter.dtype for parameter in run.network().parameters()} == {torch.float64}


def test_a_short_last_batch_counts_for_its_images_only() -> None:
    meters = Meters()
    for losses in torch.arange(10.0, dtype=torch.float64).split(4):
        meters.add(
            {"loss/net/natural": losses.mean(), "loss/other/robust": losses.sum()}, {"net": len(losses), "other": 1}
        )
    assert meters.means() == {"loss/net/natural": pytest.approx(4.5), "loss/other/robust": pytest.approx(45 / 3)}


def test_a_rank_takes_back_the_sums_of_its_own_learners_only(tmp_path: Path, tiny_experiment: Tiny) -> None:
    """Also where one learner watches a quantity that is called like another."""
    experiment = tiny_experiment("generalist")
    training = prepare(experiment, Run(tmp_path), experiment.data.load(), choose_device("cpu"), Progress(), None)
    names = ("loss/natural/natural", "loss/robust/natural", "watch/robust/natural/share", "watch/natural/robust/share")
    state = {
        f"learner/{name}/{key}": value
        for name, learner in training.learners.items()
        for key, value in learner.state().items()
    }
    state |= {f"meter/{name}": torch.ones(()) for name in names}
    for learner in ("natural", "robust"):
        training.placement = Placement(ALONE, {learner: ALONE}, True, {"natural": 1, "robust": 1})
        restore(
            training,
            state,
            {
                "step": 1,
                "meter_images": dict.fromkeys(names, 1),
                "best": {},
                "placements": [training.placement.facts],
                "state": STATE,
            },
        )
        assert set(training.meters.sums) == {name for name in names if name.split("/")[1] == learner}


def test_what_does_not_fit_is_refused_before_the_folder_exists(
    tmp_path: Path, tiny_experiment: Tiny, trained: Run
) -> None:
    from poise.models import SlimCNN

    other = tiny_experiment(initial=str(trained.path), model=SlimCNN())
    for experiment, error, words in (
        (other, CheckpointError, str(trained.path)),
        (tiny_experiment(data=Digits(train_images=12, test_images=60)), InputError, "has a single image"),
        (tiny_experiment(method=Joint(policy=Policy(objective=ADP()))), SettingsError, "ADP trains an Ensemble, not"),
        (
            tiny_experiment(monitors=(Monitor(), Monitor(name="aimed", attack=AdaptivePGD()))),
            InputError,
            "AdaptivePGD attacks",
        ),
        (
            tiny_experiment(data=Digits(train_images=120, test_images=30)),
            SettingsError,
            "Protocol.first = 40: must be at most 30",
        ),
    ):
        with pytest.raises(error, match=words):
            train(experiment, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_ends_with_the_learner_and_its_learning_rate(
    tmp_path: Path, tiny_experiment: Tiny, names_in: Any
) -> None:
    method = Joint(policy=Policy(optimizer=SGD(learning_rate=1e30)), batch_size=32)
    with pytest.raises(
        NumericalError, match=r"learner 'joint': .* is no longer finite; lower optimizer.learning_rate \(now 1e\+30\)"
    ):
        train(tiny_experiment(method=method), tmp_path / "run")
    assert names_in(tmp_path / "run") == {
        ".lock",
        "run.json",
        "experiment.json",
    }, "nothing is saved of weights that are no numbers"


def test_monitors_see_the_split_they_name(tmp_path: Path, tiny_experiment: Tiny, lines_of: Any) -> None:
    monitors = (Monitor(), Monitor(name="train", split="train"), Monitor(name="test", split="test", first=7))
    run = train(tiny_experiment(monitors=monitors, epochs=1), tmp_path / "run")
    line, data = lines_of(run)[0], run.experiment.data.load()
    train_split, selection = divided(run.experiment, data)
    network = run.network("last").eval()
    for name, split in (("natural", selection), ("train", train_split), ("test", data.test.first(7))):
        with torch.no_grad():
            right = network(split.pixels()).argmax(1) == split.labels
        assert line[f"monitor/{name}"] == pytest.approx(float(right.double().mean()), abs=1e-9)
    assert len({line[f"monitor/{name}"] for name in ("natural", "train", "test")}) == 3, (
        "by which they can be told apart"
    )


@pytest.mark.parametrize("keep", [(), (1, 2)])
def test_where_epochs_are_kept_no_learner_is_left_idle(
    tmp_path: Path, tiny_experiment: Tiny, lines_of: Any, keep: tuple[int, ...]
) -> None:
    """The natural learner's epochs before the first redistribution reach nothing but the checkpoints, and those show
    them.
    """
    made = tiny_experiment("generalist", epochs=4, keep_epochs=keep)
    settings = ["natural.average=none", "robust.average=none", "redistribute_every=3", "momentum=reset"]
    method: Any = override(made.method, settings)
    made = dataclasses.replace(made, method=method)
    assert method.is_idle("natural", Now(1, 0, 4, 4, 0)) and method.is_idle("natural", Now(2, 4, 4, 4, 0))
    run = train(made, tmp_path / "run")
    assert ["loss/natural/natural" in line for line in lines_of(run)] == [bool(keep)] * 2 + [True] * 2
    if keep:
        first, second = (read_tensors(run.path / "checkpoints" / f"step-{step:09d}")[0] for step in (4, 8))
        head = next(key for key in first if key.startswith("learner/natural/network/") and key.endswith("weight"))
        assert not torch.equal(first[head], second[head])
        plain = train(dataclasses.replace(made, keep_epochs=()), tmp_path / "plain")
        for name, tensor in run.network("last").state_dict().items():
            assert torch.equal(tensor, plain.network("last").state_dict()[name])


class Hearing(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, sentence: str) -> None:
        self.heard.append(sentence)


def test_training_within_a_threat_that_nothing_judges_is_said(tmp_path: Path) -> None:
    made = recipes.experiment("at_digits", quick=True)
    tiny = override(
        made, ["epochs=1", "data.train_images=20", "data.test_images=4", "method.batch_size=10", "protocol.attacks=[]"]
    )
    away = override(tiny, ["method.inner.threat.epsilon=8/255"])
    progress = Hearing()
    for name, each in (("as judged", tiny), ("away", away)):
        train(each, tmp_path / name, progress=progress)
    told = (
        "trained joint within Linf 8/255, but judged within Linf 0.2: set inner.threat or the attacks of protocol and"
        " monitors"
    )
    assert progress.heard == [told]
    assert remarks(override(tiny, ["monitors=[]", "criterion=last"])) == [], "nothing judges it, as was asked for"


def test_each_learner_that_nothing_judges_is_said() -> None:
    made = recipes.experiment("generalist_three_digits")
    assert remarks(made) == []
    (told,) = remarks(
        dataclasses.replace(made, monitors=made.monitors[:2], protocol=Protocol(attacks=made.protocol.attacks[:3]))
    )
    assert told.startswith("trained l2 within L2 0.8, but judged within Linf 0.2: set ")


def test_a_diagnosis_within_a_threat_that_no_learner_is_trained_within_is_said() -> None:
    made = override(recipes.experiment("generalist_digits"), ["diagnosis=Diagnosis"])
    assert remarks(made) == []
    (told,) = remarks(override(made, ["diagnosis.attack=PGD"]))
    assert (
        told == "trained robust within Linf 0.2, but diagnosed within Linf 8/255: "
        "set diagnosis.attack=none to attack as the robust learner searches"
    )
    assert (
        remarks(
            override(
                made, ["diagnosis.attack=PGD", "diagnosis.attack.threat=Linf", "diagnosis.attack.threat.epsilon=0.2"]
            )
        )
        == []
    )


def test_a_generalist_that_never_redistributes_is_said(tmp_path: Path, tiny_experiment: Tiny) -> None:
    made = tiny_experiment("generalist", epochs=1)
    assert remarks(made) == []
    late = override(made, ["method.redistribute_every=5"])
    progress = Hearing()
    train(late, tmp_path / "run", progress=progress)
    assert progress.heard == [
        "method.redistribute_every = 5 and redistribute_from = 0.625 leave no redistribution within epochs = 1, "
        "so the base learners never become the global one: lower one of them, or set method.redistribute=never"
    ]
    assert remarks(override(late, ["method.redistribute=never"])) == []
    assert len(remarks(override(late, ["method.redistribute=every_step"]))) == 1
