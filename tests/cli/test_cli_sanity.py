"""`poise sanity` as a user types it: the table, the verdict in the run folder and on the page, exit statuses,
refusals.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.attacks import PGD
from poise.core.verdicts import Verdict
from poise.engine import Run, train
from poise.evaluation import Protocol
from poise.evaluation.digests import digest_of
from poise.recipes import experiment
from poise.threats import Linf
from poise.verbs.attack import attack
from poise.verbs.sanity import _claims

CHEAP = ["--first", "20", "--device", "cpu"]
for budget in (
    "steps=4",
    "autoattack_steps=4",
    "targets=1",
    "queries=8",
    "gradient_examples=8",
    "gradient_samples=2",
    "substitute_steps=4",
):
    CHEAP += ["--set", budget]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with images saved by an attack; its verdicts are what the tests write."""
    from dataclasses import replace

    quick = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=2)
    made = replace(
        experiment("at_digits"),
        epochs=2,
        monitors=(),
        criterion="last",
        protocol=Protocol(name="tiny", attacks=(quick,)),
    )
    trained = train(made, tmp_path_factory.mktemp("sanity") / "run")
    attack(trained, quick, out=trained.path / "adversarial" / "PGD-2.safetensors", checkpoint="last", first=30)
    return trained


def test_a_run_gets_its_verdict_beside_its_records(run, poise):
    status, out, err = poise("sanity", run.path, "--checkpoint", "last", *CHEAP)
    path = run.path / "records" / "sanity-last.json"
    verdict = Verdict.read(path)
    assert status == (1 if verdict.judgement == "flaw" else 0)
    assert f"verdict: {path}" in err.replace("\n", "")
    assert "sanity of AT (last)" in out and "reported accuracy" in out
    assert verdict.threat["epsilon"] == 0.2  # of the run's own protocol
    assert (verdict.run, verdict.count, verdict.dataset, verdict.effort["queries"]) == ("run", 20, "Digits", 8)
    assert verdict["reported_accuracy"].judgement == "pass"
    assert "saved PGD-2" in verdict["reported_accuracy"].numbers
    again, _, _ = poise("sanity", run.path, "--checkpoint", "last", *CHEAP)
    assert again == status
    assert Verdict.read(path).findings == verdict.findings


def test_only_what_was_saved_of_these_very_weights_is_held_against_them(run):
    """Selected weights move on while a run trains, and images saved of them keep the checkpoint's name."""
    split = run.experiment.data.load().test.first(20)
    assert [name for name, _ in _claims(run, digest_of(run.network("last")), split)] == ["saved PGD-2"]
    assert list(_claims(run, "of other weights", split)) == []


def test_a_flaw_is_exit_status_one_and_goes_to_a_file_of_your_own(run, poise, tmp_path):
    weights, out = run.path / "checkpoints" / "last.safetensors", tmp_path / "mine.json"
    own = ["--weights", weights, "--model", "DigitsCNN", "--data", "Digits", "--out", out]
    status, shown, _ = poise("sanity", *own, "--threat", "L2", "--epsilon", "100", *CHEAP)
    assert status == 1
    assert Verdict.read(out)["pixel_units"].judgement == "flaw"
    assert Verdict.read(out).threat["type"] == "L2"
    assert "Next: Pass epsilon in pixels" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name run folders, or --weights FILE"),
        (("nowhere",), "there is no run folder nowhere"),
        (("--weights", "w.pt"), "--weights needs --model"),
        (("nowhere", "--model", "ResNet18"), "--model, --data and --out go with --weights"),
        (("nowhere", "--set", "quries=3"), "quries"),
    ],
)
def test_what_cannot_be_meant_is_refused(poise, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = poise("sanity", *arguments)
    assert status == 2
    assert words in err
    assert not list(Path(tmp_path).iterdir())


def test_help_teaches_by_example(poise):
    status, out, _ = poise("sanity", "--help")
    assert status == 0
    assert "poise sanity runs/generalist" in out
