"""Whatever is written into settings, whatever byte of a run folder is damaged, whatever a path is: a PoiseError, or the
right answer.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.attacks import APGD, PGD, AutoAttack, Square
from poise.core.errors import PoiseError
from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.core.settings import from_json, to_json
from poise.core.verdicts import Verdict
from poise.data import Digits
from poise.engine import Experiment, Monitor, Run, train
from poise.evaluation import Protocol
from poise.evaluation.sanity import inspect
from poise.learners import AWP, EMA, PiecewiseLinear, Policy
from poise.methods import Generalist
from poise.models import DigitsCNN
from poise.objectives import TRADES
from poise.reports import read_runs, table, to_csv
from poise.threats import Linf
from poise.verbs.evaluate import evaluate

THREAT = Linf(epsilon=0.2)
QUICK = PGD(threat=THREAT, step_size=0.1, steps=1)
EXPERIMENT = Experiment(
    name="fuzzed",
    data=Digits(train_images=120, test_images=20),
    model=DigitsCNN(width=2),
    method=Generalist(
        natural=Policy(average=EMA(decay=0.8), schedule=PiecewiseLinear()),
        robust=Policy(objective=TRADES(), perturbation=AWP()),
        batch_size=64,
    ),
    epochs=1,
    monitors=(Monitor(), Monitor(name="pgd", attack=QUICK)),
    protocol=Protocol(attacks=(QUICK,)),
)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """The same examples at every run, and no file that remembers any."""
    checks = [
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2**31, 2**63, 10**400, 0.0, -0.0, 1e-320, 1e30, 1e308, -1e308, float("nan"), float("inf"), 8 / 255]
    ),
    st.integers(),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", "8/255", "1/0", "1e999", "none", "NaN", "../x", "\0", "\ud800", "PGD", "Linf", "TRADES"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.just("type"), TEXTS), inner, max_size=3)
    ),
    max_leaves=5,
)


def places_in(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in ((*path, key), *places_in(value, (*path, key)))]


PLACES = places_in(to_json(EXPERIMENT))


def any_settings_value(place: tuple[Any, ...], value: Any, as_text: bool) -> None:
    """An experiment with the value at the place is refused, or is one that its own JSON gives again."""
    try:
        if as_text:
            made = override(
                EXPERIMENT, [f"{'.'.join(map(str, place))}={value if isinstance(value, str) else json.dumps(value)}"]
            )
        else:
            data = copy.deepcopy(to_json(EXPERIMENT))
            inside = data
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
            made = from_json(Experiment, data)
    except PoiseError as error:
        assert str(error)
        return
    again = from_json(Experiment, json.loads(json.dumps(to_json(made))))
    assert again == made and again.group == made.group


def any_path(text: str) -> None:
    """Reading there is refused in one sentence."""
    for read in (Run.open, EvaluationRecord.read, Verdict.read, read_runs):
        with contextlib.suppress(PoiseError):
            read(text)


@dataclasses.dataclass(frozen=True)
class Damage:
    """What happens to a file: a bit or a byte, an end that is lost, bytes that are lost or doubled."""

    kind: str
    at: float
    byte: int
    length: int

    def of(self, data: bytes) -> bytes:
        place = min(int(self.at * len(data)), max(0, len(data) - 1))
        if self.kind == "bit":
            return data[:place] + bytes([data[place] ^ (1 << self.byte % 8)]) + data[place + 1 :] if data else data
        if self.kind == "byte":
            return data[:place] + bytes([self.byte]) + data[place + 1 :]
        if self.kind == "end":
            return data[:place]
        if self.kind == "lost":
            return data[:place] + data[place + self.length :]
        return data[: place + self.length] + data[place:]


DAMAGES = st.builds(
    Damage,
    st.sampled_from(["bit", "byte", "end", "lost", "doubled"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.integers(1, 40),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything in it."""
    run = train(EXPERIMENT, tmp_path_factory.mktemp("fuzz") / "run")
    evaluate(run)
    split = EXPERIMENT.data.load().test
    effort = {"checks": ("constant_logits", "batch_statistics"), "run": run.name, "dataset": "Digits"}
    inspect(run.network(), split.pixels(), split.labels, THREAT, **effort).write(run.path / "records" / "sanity.json")
    return run.path


def seen(folder: Path) -> dict[str, Any]:
    """All that readers say of a run folder, each answer by itself; a refusal is the error."""
    run = Run(folder)

    def weights(which: str) -> str:
        state = run.network(which).state_dict()
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()

    def newest() -> Any:
        found, _ = run.newest_state()
        assert found is not None
        return sorted((name, float(tensor.double().sum())) for name, tensor in found[0].items())

    readers: dict[str, Callable[[], Any]] = {
        "selected": lambda: weights("selected"),
        "last": lambda: weights("last"),
        "newest": newest,
        "facts": lambda: run.facts("selected"),
        "metrics": run.metrics,
        "trained": run.trained,
        "record": lambda: dataclasses.asdict(EvaluationRecord.read(folder / "records" / "selected.json")),
        "verdict": lambda: dataclasses.asdict(Verdict.read(folder / "records" / "sanity.json")),
        "table": lambda: to_csv(table(read_runs(folder))),
    }
    answers: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            answers[name] = read()
        except PoiseError as error:
            answers[name] = error
    return answers


@functools.cache
def answers_of(whole: Path) -> dict[str, Any]:
    """What is said of the folder as it was made: no refusals."""
    answers = seen(whole)
    assert not [name for name, answer in answers.items() if isinstance(answer, PoiseError)], answers
    return answers


def any_damaged_byte(whole: Path, number: int, damage: Damage) -> None:
    """Whoever reads the folder says what it said before, or names what is wrong."""
    files = sorted(
        path for path in whole.rglob("*") if path.is_file() and path.stat().st_size and path.suffix != ".npz"
    )
    place = files[number % len(files)]
    before = place.read_bytes()
    right = answers_of(whole)
    try:
        place.write_bytes(damage.of(before))
        for name, answer in seen(whole).items():
            if isinstance(answer, PoiseError):
                assert str(answer)
            elif name == "trained" and answer != right[name]:
                assert answer["training_seconds"] is None or place.suffix == ".json", (
                    "of damaged facts nothing is claimed"
                )
            elif name == "metrics":  # a file that ends earlier is one of a run that had not got further
                assert answer == right[name][: len(answer)]
            else:
                assert answer == right[name], f"{name} differs without a word where {place.name} was damaged: {damage}"
    finally:
        place.write_bytes(before)


def any_damaged_state(folder: Path, damage: Damage) -> None:
    """A stopped AutoAttack goes on to the right result, or names its file."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 8, 8, generator=generator)
    network = DigitsCNN(width=2).build((1, 8, 8), 10, 0).eval()
    y = network(x).argmax(1)
    attack = AutoAttack(
        threat=THREAT, version="custom", attacks=(APGD(threat=THREAT, steps=3), Square(threat=THREAT, queries=5))
    )
    state = folder / "state.safetensors"
    right = folder / "right.safetensors"
    if not right.exists():
        attack.run(network, x, y, state_path=right, batch_size=4, save_seconds=0)
    state.write_bytes(damage.of(right.read_bytes()))
    wanted = attack.run(network, x, y, batch_size=4)
    try:
        found = attack.run(network, x, y, state_path=state, batch_size=4)
    except PoiseError as error:
        assert str(state) in str(error)
    else:
        assert torch.equal(found.predicted, wanted.predicted) and found.survivors == wanted.survivors


@fuzzed(200)
@given(st.sampled_from(PLACES), VALUES, st.booleans())
def test_any_settings_value_is_refused_or_comes_back(place: tuple[Any, ...], value: Any, as_text: bool) -> None:
    any_settings_value(place, value, as_text)


@fuzzed(40)
@given(st.integers(0, 1000), DAMAGES)
def test_any_damaged_byte_of_a_run_folder_is_named_or_changes_nothing(whole: Path, number: int, damage: Damage) -> None:
    any_damaged_byte(whole, number, damage)


@fuzzed(10)
@given(DAMAGES)
def test_any_damaged_byte_of_a_stopped_search_is_named_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, damage: Damage
) -> None:
    folder = tmp_path_factory.getbasetemp() / "states"
    folder.mkdir(exist_ok=True)
    any_damaged_state(folder, damage)


@fuzzed(100)
@given(st.text(max_size=30))
def test_any_path_is_refused_in_one_sentence(text: str) -> None:
    any_path(f"/nowhere/{text}")


@pytest.mark.slow
@fuzzed(10_000)
@given(st.sampled_from(PLACES), VALUES, st.booleans())
def test_ten_thousand_settings_values(place: tuple[Any, ...], value: Any, as_text: bool) -> None:
    any_settings_value(place, value, as_text)


@pytest.mark.slow
@fuzzed(3_000)
@given(st.integers(0, 1000), DAMAGES)
def test_three_thousand_damages(whole: Path, number: int, damage: Damage) -> None:
    any_damaged_byte(whole, number, damage)
