"""AutoAttack and its components as columns of a record; evaluations that are killed go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, FAB, PGD, AutoAttack, Square
from poise.attacks.attack import Attack
from poise.core.errors import InputError, SettingsError, StorageError
from poise.core.progress import Progress
from poise.core.records import AttackRecord, EvaluationRecord
from poise.data import Data, Split
from poise.evaluation import Protocol, evaluate
from poise.evaluation.columns import Searching, known
from poise.evaluation.journal import Journal
from poise.threats import Linf

THREAT = Linf(epsilon=0.1)
PARTS = (
    APGD(threat=THREAT, steps=3),
    FAB(threat=THREAT, steps=3, targeted=True),
    Square(threat=THREAT, queries=8, rescale=False),
)
WHOLE = AutoAttack(threat=THREAT, version="custom", attacks=PARTS)
CHEAP = PGD(threat=THREAT, step_size=0.05, steps=2)
PROTOCOL = Protocol(name="small", attacks=(CHEAP, *PARTS, APGD(threat=THREAT, steps=3, loss="dlr"), WHOLE))


def images(count: int = 40, classes: int = 5) -> Data:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    pixels[torch.arange(count), 0, 0, labels % 4] = 255
    split = Split.of(pixels, labels)
    return Data("noise", split, split, tuple(map(str, range(classes))))


def linear(data: Data, classes: int = 5) -> nn.Sequential:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()
    x, y = data.test.pixels(dtype=torch.float64), data.test.labels
    solved = torch.linalg.lstsq(x.flatten(1), nn.functional.one_hot(y, classes).double()).solution
    with torch.no_grad():
        network.load_state_dict({"1.weight": solved.T, "1.bias": torch.zeros(classes, dtype=torch.float64)})
    return network


@pytest.fixture(scope="module")
def data() -> Data:
    return images()


@pytest.fixture(scope="module")
def network(data: Data) -> nn.Module:
    return linear(data)


@pytest.fixture(scope="module")
def record(network: nn.Module, data: Data) -> EvaluationRecord:
    return evaluate(network, data, PROTOCOL)


def timeless(record: EvaluationRecord) -> Any:
    attacks = [
        dataclasses.replace(a, seconds=0, notes={k: v for k, v in a.notes.items() if k != "seconds"})
        for a in record.attacks
    ]
    return dataclasses.replace(record, seconds=0, started="", attacks=attacks)


def test_columns_stand_in_the_protocols_order_and_the_worst_case_covers_them(record: EvaluationRecord) -> None:
    assert record.attack_names == ["PGD-2", "APGD-CE", "FAB-T", "Square", "APGD-DLR", "AutoAttack-custom"]
    assert 0 < record.worst_case_accuracy < record.natural_accuracy
    assert record.worst_case_accuracy <= min(record.accuracy(name) for name in record.attack_names)
    assert record.worst_case_accuracy < record.accuracy(
        "AutoAttack-custom"
    ) or record.worst_case() == record.correct_under("AutoAttack-custom")


def test_autoattack_is_the_worst_of_its_components(record: EvaluationRecord) -> None:
    parts = [record.correct_under(name) for name in ("APGD-CE", "FAB-T", "Square")]
    assert record.correct_under("AutoAttack-custom") == [all(row) for row in zip(*parts, strict=True)]
    notes = record.attacks[-1].notes
    assert notes["components"] == ["APGD-CE", "FAB-T", "Square"]
    standing = [sum(by == -1 or by > place for by in notes["broken_by"]) for place in range(3)]
    assert notes["survivors"] == standing
    assert standing[-1] == sum(record.correct_under("AutoAttack-custom"))
    assert notes["rules"] == ["FAB-T: 4 target classes instead of 9, all that 5 classes allow"]


@pytest.mark.parametrize("place", range(3))
def test_a_component_is_that_attack_alone_on_all_images(
    record: EvaluationRecord, network: nn.Module, data: Data, place: int
) -> None:
    """Also where the attack took over what AutoAttack found: such examples are broken by it, or keep their label."""
    part, notes = PARTS[place], record.attacks[-1].notes
    column = next(attack for attack in record.attacks if attack.name == part.name)
    assert column.notes["from"] == "AutoAttack-custom"
    assert column.notes["run_on"] == sum(0 <= by < place for by in notes["broken_by"])
    for by, guess, label, natural in zip(
        notes["broken_by"], column.predicted, record.labels, record.natural, strict=True
    ):
        assert by != place or guess != label
        assert -1 < by <= place or by == -2 or guess == label
        assert by != -2 or guess == natural
    alone = evaluate(network, data, Protocol(attacks=(part,)))
    again = sum(a != b for a, b in zip(alone.attacks[0].predicted, column.predicted, strict=True))
    assert again <= 3 if place == 2 else again == 0  # Square's draws belong to its place among the components
    assert "from" not in alone.attacks[0].notes


def test_what_an_autoattacks_record_says_of_a_component() -> None:
    whole = AttackRecord("AutoAttack", {}, [9, 1, 2, 0, 7], 0.0, {"broken_by": [-2, 0, 1, -1, 2]})
    labels = [0, 0, 0, 0, 0]
    assert known(whole, labels, 0) == ([9, 1, 0, 0, 0], [])
    assert known(whole, labels, 1) == ([9, 0, 2, 0, 0], [1])
    assert known(whole, labels, 2) == ([9, 0, 0, 0, 7], [1, 2])


def test_rules_for_few_classes_go_into_the_record() -> None:
    few = images(12, 3)
    targeted = APGD(threat=THREAT, steps=2, loss="targeted_dlr")
    whole = AutoAttack(threat=THREAT, version="custom", attacks=(PARTS[0], targeted))
    made = evaluate(linear(few, 3), few, Protocol(attacks=(targeted, whole)))
    for attack in made.attacks:
        assert any("the targeted DLR needs 4 classes, the network has 3" in rule for rule in attack.notes["rules"])


class Told(Progress):
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: dict[str, int] = {}
        self.notes: list[str] = []
        self.said: list[str] = []

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        self.begun.append(what)
        self.done[what] = 0

        def advance(done: int) -> None:
            self.done[what] += done

        return advance

    def note(self, text: str, share: float | None = None) -> None:
        assert share is not None and 0 <= share <= 1
        self.notes.append(text)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def test_progress_names_each_component_its_survivors_and_the_time_left(network: nn.Module, data: Data) -> None:
    told = Told()
    made = evaluate(network, data, PROTOCOL, progress=told)
    costs = [part.forwards() for part in PARTS]
    whole = [
        f"AutoAttack-custom, {n + 1} of 3: {part.name} ({100 * cost / sum(costs):.0f} % of the work if all stand)"
        for n, (part, cost) in enumerate(zip(PARTS, costs, strict=True))
    ]
    assert told.begun[:5] == ["natural images", "PGD-2", *whole]
    assert told.done["PGD-2"] == 40
    notes = made.attacks[-1].notes
    right = sum(made.natural_correct())
    assert [told.done[name] for name in whole] == [right, *notes["survivors"][:2]]
    assert [sentence.split(" stand after")[0] for sentence in told.said] == [
        f"AutoAttack-custom: {left} of 40 images" for left in notes["survivors"]
    ]
    assert all(note.endswith(" stand") for note in told.notes)


class Killed(BaseException):
    """Ends a process as a signal would."""


class Dying(nn.Module):
    """The same network, until it was asked `calls` times."""

    def __init__(self, inner: nn.Module, calls: int) -> None:
        super().__init__()
        kept = SimpleNamespace(left=calls)
        # a function: what an attribute holds, copies of the network depend on
        self.inner, self.calls = (
            inner,
            lambda: kept,
        )

    @property
    def left(self) -> int:
        return self.calls().left

    def forward(self, x: Tensor) -> Tensor:
        self.calls().left -= 1
        if self.left < 0:
            raise Killed
        return self.inner(x)


@pytest.mark.parametrize("calls", [2, 6, 12, 30, 50])
def test_an_evaluation_that_was_killed_goes_on_to_the_same_record(
    network: nn.Module, data: Data, tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.attacks.AutoAttack.run", frequently(AutoAttack.run))
    folder = tmp_path / ".unfinished"
    wanted = evaluate(Dying(network, 10**9), data, PROTOCOL)
    with pytest.raises(Killed):
        evaluate(Dying(network, calls), data, PROTOCOL, journal=folder)
    counted = Dying(network, 10**9)
    resumed = evaluate(counted, data, PROTOCOL, journal=folder, out=tmp_path / "record.json")
    assert timeless(resumed) == timeless(wanted) == timeless(EvaluationRecord.read(tmp_path / "record.json"))
    assert not folder.exists()
    whole = Dying(network, 10**9)
    evaluate(whole, data, PROTOCOL)
    if calls > 12:
        assert counted.left > whole.left  # part of the work was kept


def test_nothing_is_forgotten_before_the_record_is_written(
    network: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, calls = tmp_path / ".unfinished", tmp_path / "record.json", 10**9
    whole = Dying(network, calls)
    with monkeypatch.context() as full:
        full.setattr(EvaluationRecord, "write", lambda *_: (_ for _ in ()).throw(StorageError("the disk is full")))
        with pytest.raises(StorageError, match="the disk is full"):
            evaluate(whole, data, PROTOCOL, journal=folder, out=out)
    assert len(list(folder.glob("part-*.json"))) == len(PROTOCOL.attacks)
    counted = Dying(network, calls)
    kept = [json.loads(part.read_text())["content"]["seconds"] for part in folder.glob("part-*.json")]
    assert evaluate(counted, data, PROTOCOL, journal=folder, out=out).seconds >= sum(kept)
    assert out.exists() and not folder.exists()
    assert calls - counted.left < (calls - whole.left) / 10, (
        "natural images, and what attacks ask before they look into the journal"
    )


def frequently(run: Callable[..., Any]) -> Callable[..., Any]:
    """AutoAttack saving its state after every round."""
    return lambda *args, **named: run(*args, **{**named, "save_seconds": 0.0})


def test_what_was_kept_for_another_evaluation_is_not_used(network: nn.Module, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / ".unfinished"
    with pytest.raises(Killed):
        evaluate(Dying(network, 30), data, PROTOCOL, journal=folder)
    assert (folder / "plan.json").exists()
    other = Protocol(attacks=(PGD(threat=THREAT, step_size=0.01, steps=1),))
    assert timeless(evaluate(network, data, other, journal=folder)) == timeless(evaluate(network, data, other))


def test_a_refused_evaluation_leaves_nothing_behind(data: Data, tmp_path: Path) -> None:
    class Broken(nn.Module):
        asked = 0

        def forward(self, x: Tensor) -> Tensor:
            self.asked += 1
            return x.flatten(1)[:, :5] * (1 if self.asked < 2 else torch.nan)

    with pytest.raises(InputError, match="NaN"):
        evaluate(Broken(), data, Protocol(attacks=(WHOLE,)), journal=tmp_path / ".unfinished")
    assert not list(tmp_path.iterdir())


def test_a_journal_keeps_what_it_is_given_and_the_lanes_a_search_was_begun_with(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j", {"what": (1, 2)})
    assert first.get("0") is None
    first.keep("0", {"value": [1]})
    path, width = first.state("1", 16)
    assert path is not None
    path.write_bytes(b"state")
    again = Journal(tmp_path / "j", {"what": [1, 2]})
    assert again.get("0") == {"value": [1]}
    assert again.state("1", 64) == (path, width)
    (tmp_path / "j" / "part-0.json").write_text("{")
    assert again.get("0") is None
    assert Journal(None, {}).state("1", 8) == (None, 8)
    again.close()
    assert not (tmp_path / "j").exists()


def test_records_with_autoattack_survive_the_disk(record: EvaluationRecord, tmp_path: Path) -> None:
    path = record.write(tmp_path / "r.json")
    assert json.loads(json.dumps(dataclasses.asdict(EvaluationRecord.read(path)))) == json.loads(
        json.dumps(dataclasses.asdict(record))
    )
    assert json.loads(path.read_text())["attacks"][-1]["notes"]["components"] == ["APGD-CE", "FAB-T", "Square"]


@pytest.mark.parametrize("attack", [CHEAP, PARTS[0], WHOLE], ids=lambda attack: attack.name)
def test_notes_say_which_images_and_what_the_protocol_warns_of(network: nn.Module, data: Data, attack: Attack) -> None:
    made = evaluate(network, data, Protocol(attacks=(attack,), first=12, note="mind the step"), notes={"epoch": 3})
    assert (made.notes["protocol"], made.notes["epoch"], made.count) == ("mind the step", 3, 12)
    assert len(made.notes["images"]) == 64


def test_the_record_says_in_which_arithmetic_was_searched_and_memory_is_kept_to(data: Data, network: nn.Module) -> None:
    plain, short = (evaluate(network, data, PROTOCOL, search=Searching(precision)) for precision in ("auto", "bf16"))
    assert [attack.notes.get("search") for attack in plain.attacks] == [None, *["float32"] * 5]
    assert [attack.notes.get("search") for attack in short.attacks] == [None, *["bfloat16"] * 5]
    assert plain.worst_case_accuracy <= short.accuracy("AutoAttack-custom") <= plain.natural_accuracy
    with pytest.raises(InputError, match="memory_limit = 10 bytes, must be at least"):
        evaluate(network, data, PROTOCOL, search=Searching(memory_limit=10))
    small = evaluate(network, data, PROTOCOL, search=Searching(memory_limit=100_000))
    assert small.accuracy("AutoAttack-custom") == plain.accuracy("AutoAttack-custom")
    with pytest.raises(SettingsError, match="precision = 'fp16'"):
        evaluate(network, data, PROTOCOL, search=Searching("fp16"))  # type: ignore[arg-type]
