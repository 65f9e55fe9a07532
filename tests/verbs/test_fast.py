"""A quick estimate: honest about its interval, and never taken for a record of all images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.attacks import APGD, AutoAttack
from poise.cli import main
from poise.core.errors import RunError, SettingsError
from poise.data import Digits
from poise.engine import Run
from poise.evaluation import Protocol
from poise.reports import read_runs
from poise.threats import Linf
from poise.verbs import fast
from poise.verbs.fast import estimate

Runs = dict[str, Run]
THREAT = Linf(epsilon=0.1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert APGD(loss="targeted_dlr", steps=100, targets=9) == fast.ATTACK, "AutoAttack's own budget"
    monkeypatch.setattr(fast, "ATTACK", APGD(loss="targeted_dlr", steps=4, targets=2))


@pytest.fixture
def run(finished: Runs, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(finished["seed-0"].path, tmp_path / "run"))


def test_on_all_images_it_is_apgd_t_on_all(run: Run) -> None:
    found = estimate(run)
    pair = AutoAttack(threat=THREAT, version="custom", attacks=(fast.ATTACK,))
    whole = poise.evaluate(run, protocol=Protocol(name="whole", attacks=(pair,)))
    assert found.record.count == whole.count == 40 and found.why == "all there are"
    assert found.robust[0] == pytest.approx(whole.worst_case_accuracy)
    assert found.natural[0] == pytest.approx(whole.natural_accuracy)
    assert found.robust[1] <= found.robust[0] <= found.robust[2] and found.robust[1] < found.robust[2]
    rows = found.classes()
    assert sum(count for count, _, _ in rows.values()) == 40
    assert sum(count * robust[0] for count, _, robust in rows.values()) == pytest.approx(40 * found.robust[0])


def test_its_record_is_never_taken_for_another(run: Run) -> None:
    found = estimate(run)
    assert found.path == run.path / "fast" / "selected.json"
    assert found.record.attack_names == ["APGD-T (estimate)"] and found.record.protocol == "fast"
    with pytest.raises(RunError, match="has no evaluation records yet"):
        read_runs(run.path)
    poise.evaluate(run)
    assert list(read_runs(run.path)[0].records) == ["selected"]
    with pytest.raises(SettingsError, match="'fast' is unknown"):
        poise.evaluate(run, protocol="fast")


def sorted_digits() -> tuple[torch.Tensor, torch.Tensor]:
    test = Digits(train_images=100, test_images=300).load().test
    order = test.labels.argsort(stable=True)
    return test.pixels()[order], test.labels[order]


def constant() -> nn.Module:
    """Says 3, whatever it sees, and cannot be moved from it."""
    last = nn.Linear(64, 10)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.eye(10)[3])
    return nn.Sequential(nn.Flatten(), last)


def test_images_are_drawn_from_all_and_end_with_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sorted_digits()
    share = float((y == 3).float().mean())
    found = estimate(constant(), (x, y), threat=THREAT, half_width=0.06)
    assert found.record.count < 300 and found.why == "enough for an interval of +-6 points"
    assert found.robust[1] < share < found.robust[2], "the first of sorted images would all be of one class"
    assert (found.robust[2] - found.robust[1]) / 2 <= 0.06
    assert len(found.classes()) > 5 and found.classes()["3"][2][0] == 1.0
    again = estimate(constant(), (x, y), threat=THREAT, half_width=0.06)
    count = min(found.record.count, again.record.count)  # which goes by the pace
    assert found.record.labels[:count] == again.record.labels[:count]
    assert "An estimate by APGD-T on" in found.notes()[0] and "of 300 images" in found.notes()[0]


def test_when_the_time_is_over_the_interval_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(fast.time, "monotonic", lambda: next(clock))
    found = estimate(constant(), sorted_digits(), threat=THREAT, seconds=60)
    assert fast.LEAST <= found.record.count < 100
    assert found.why.startswith("the time was over at +-")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"half_width": 0.0}, "half_width = 0, "),
        ({"seconds": 0.0}, "seconds = 0"),
        ({"epsilon": 0.0}, "must be positive"),
        ({"threat": "L7"}, "no registered threat"),
    ],
)
def test_refusals(run: Run, how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        estimate(run, **how)
    assert not (run.path / "fast").exists()


def test_the_command_prints_classes_and_interval(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["poise", "evaluate", str(run.path), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert typed("--fast") == 0
    shown = capsys.readouterr().out
    assert "robust (Linf 0.1)" in shown and " to " in shown and "95 % intervals" in shown
    assert typed("--fast", "--protocol", "standard") == 2
    assert "--fast chooses attack and images itself; leave --protocol out" in capsys.readouterr().err
