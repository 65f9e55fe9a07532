"""Every verb of the command, as a user types it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from poise.cli import main
from poise.cli.listing import KINDS
from poise.core.records import EvaluationRecord
from poise.core.settings import _FAMILIES
from poise.recipes import recipes
from poise.reports import verifier

VERBS = (
    "demo",
    "train",
    "evaluate",
    "attack",
    "bundle",
    "report",
    "list",
    "show",
    "export",
    "pseudo-label",
    "sanity",
    "transfer",
    "embed",
)
SMALL = (
    "data.train_images=150",
    "data.test_images=40",
    "epochs=2",
    "monitors.1.first=20",
    'protocol.attacks=[{"type": "PGD", "threat": {"type": "Linf", "epsilon": "0.2"}, "step_size": 0.1, "steps": 2}]',
)
TOY = '''
import poise
from poise.core.modes import CraftMode
from poise.core.papers import Paper
from poise.losses import cross_entropy
from poise.objectives import Objective
from poise.objectives.natural import Natural


@poise.settings
class ToyOfTest(Objective[Natural]):
    """Cross-entropy, scaled: an objective in one file."""

    paper = Paper("nobody", "A toy", "nowhere")
    factor: float = 1.0
    craft_mode: CraftMode = "evaluating"

    def craft(self, model, batch, now):
        return Natural(batch.y, batch.x)

    def loss(self, model, examples, now):
        return {"toy": self.factor * cross_entropy(model(examples.x), examples.y)}
'''

Poise = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by the command, evaluated; to be read only."""
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            sys, "argv", ["poise", "train", "at_digits", "--quick", *SMALL, "--out", str(out), "--device", "cpu"]
        )
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_the_verb_does_and_how(poise: Poise, verb: str) -> None:
    status, out, _ = poise(verb, "--help")
    assert status == 0
    assert f"poise {verb}" in out
    assert "Examples:" in out or verb in ("demo", "list")
    assert poise(verb, "-h")[1] == out


def test_the_front_page_names_every_verb_and_the_version_is_printed(poise: Poise) -> None:
    import poise as package

    _, out, _ = poise("--help")
    assert all(f" {verb} " in out for verb in VERBS)
    assert poise("--version")[1] == f"poise {package.__version__}\n"


def test_train_leaves_a_run_folder_with_both_records(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "experiment.json",
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "records",
    }
    records = {path.name for path in (run / "records").iterdir()}
    assert records == {"selected.json", "last.json", "gallery-selected.npz", "gallery-last.npz"}
    assert EvaluationRecord.read(run / "records" / "last.json").attack_names == ["PGD-2"]


def test_what_train_wrote_can_be_trained_again_to_the_same_weights(poise: Poise, run: Path, tmp_path: Path) -> None:
    status, _, err = poise("train", run / "experiment.json", "--out", tmp_path / "again", "--no-evaluate")
    assert status == 0 and "epoch 1/" in err
    weights = "checkpoints/last.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (run / weights).read_bytes()
    assert not (tmp_path / "again" / "records").exists()


def test_evaluate_by_the_runs_own_and_by_a_named_protocol(poise: Poise, run: Path) -> None:
    before = files(run)["records/selected.json"]
    status, out, _ = poise(
        "evaluate", run, "--protocol", "gradient", "--epsilon", "8/255", "--step-size", "2/255", "--first", 6
    )
    assert status == 0
    record = EvaluationRecord.read(run / "records" / "selected-gradient-first6.json")
    assert record.count == 6
    assert record.attacks[0].settings["threat"]["epsilon"] == 8 / 255
    assert "CW-100" in out
    assert files(run)["records/selected.json"] == before


def test_evaluate_a_users_own_weights_and_network(
    poise: Poise, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net_of_cli_test.py").write_text(
        "from poise.models import DigitsCNN\n\ndef build():\n    return DigitsCNN().build((1, 8, 8), 10, 0)\n"
    )
    weights = run / "checkpoints" / "last.safetensors"
    for model in ("net_of_cli_test:build", "DigitsCNN"):
        arguments = (
            "--weights",
            weights,
            "--model",
            model,
            "--data",
            "Digits",
            "--first",
            6,
            "--out",
            "mine.json",
            "--again",
        )
        status, _, _ = poise("evaluate", *arguments, "--protocol", "gradient", "--epsilon", 0.2, "--step-size", 0.1)
        assert status == 0
        record = EvaluationRecord.read("mine.json")
        assert (record.count, record.model, record.protocol) == (6, "last", "gradient-eps0.2-step0.1-first6")


def test_attack_saves_adversarial_images(poise: Poise, run: Path, tmp_path: Path) -> None:
    to = tmp_path / "x.safetensors"
    status, out, _ = poise("attack", run, "MIM", "steps=3", "threat.epsilon=4/255", "--first", 12, "--out", to)
    assert status == 0
    assert "MIM-3 on 12 images" in out
    assert safetensors.torch.load(to.read_bytes())["x_adv"].shape == (12, 1, 8, 8)
    assert json.loads(to.with_suffix(".json").read_text())["attack"]["threat"]["epsilon"] == 4 / 255


def test_a_bundle_says_its_digest_and_checks_itself(poise: Poise, run: Path, tmp_path: Path) -> None:
    status, out, _ = poise("bundle", run, "--weights", "--out", tmp_path / "bundle.zip")
    assert status == 0
    digest = out.split("digest: ")[1].strip()
    assert verifier.main([str(tmp_path / "bundle.zip"), "--digest", digest]) == 0
    assert verifier.main([str(tmp_path / "bundle.zip"), "--digest", "0" * 64]) == 1
    assert "must be .zip" in poise("bundle", run, "--out", tmp_path / "bundle.tar")[2]


def test_collaborative_examples_help_and_are_not_called_robust(poise: Poise, run: Path, tmp_path: Path) -> None:
    to = tmp_path / "x.safetensors"
    for name, kind in (("PGD", "robust"), ("Collaborative", "collaborative")):
        settings = ("steps=3", "step_size=0.1", "threat.epsilon=0.2")
        status, out, _ = poise("attack", run, name, *settings, "--first", 12, "--out", to)
        facts = json.loads(to.with_suffix(".json").read_text())
        losses = {which: facts["cross_entropy"][which]["mean"] for which in ("natural", "attacked")}
        assert status == 0
        assert (losses["attacked"] > losses["natural"]) is (kind == "robust")
        assert f"{kind} {100 * facts[kind]:.2f} %" in out and {"robust", "collaborative"} & set(facts) == {kind}
        numbers = "; ".join(
            f"{which} {facts['cross_entropy'][which]['mean']:.4f} ± {facts['cross_entropy'][which]['std']:.4f}"
            for which in losses
        )
        assert f"cross-entropy, mean ± standard deviation over images: {numbers}" in out


def test_images_of_other_settings_are_kept_beside_each_other(poise: Poise, run: Path) -> None:
    settings = (
        ("threat.epsilon=4/255",),
        ("threat.epsilon=8/255",),
        ("threat.epsilon=8/255", "--first", 8),
        ("--seed", 3),
    )
    for each in settings:
        assert poise("attack", run, "FGSM", *each)[0] == 0
    assert len(list((run / "adversarial").glob("FGSM-*.safetensors"))) == len(settings)


@pytest.mark.parametrize(
    ("format", "sign"), [("markdown", "|"), ("csv", ","), ("latex", "\\toprule"), ("html", "<html")]
)
def test_report_in_every_format(poise: Poise, run: Path, tmp_path: Path, format: str, sign: str) -> None:
    status, _, _ = poise("report", run, "--format", format, "--out", tmp_path / "report")
    assert status == 0
    text = (tmp_path / "report").read_text()
    assert sign in text
    assert "AT" in text
    assert "PGD-2" in text
    if format != "html":
        assert poise("report", run, "--format", format)[1].strip() == text.strip()


@pytest.mark.parametrize("kind", [*KINDS, "recipes"])
def test_list_names_everything_of_a_kind(poise: Poise, kind: str) -> None:
    status, out, _ = poise("list", kind)
    assert status == 0
    for name in recipes() if kind == "recipes" else _FAMILIES[KINDS[kind]]:
        assert f"\n{name} " in out


def test_recipes_are_listed_by_paper_and_table(poise: Poise) -> None:
    out = poise("list", "recipes")[1]
    titles = [line.removeprefix("recipes: ").strip() for line in out.splitlines() if line.startswith("recipes: ")]
    ours = [title for title in titles if title.startswith("our own, on ")]
    assert ours == titles[: len(ours)] and {title.rpartition(" ")[2] for title in ours} == {
        "CIFAR10",
        "Digits",
        "MNIST",
    }
    assert titles[len(ours) :] == sorted(titles[len(ours) :])
    for wanted in (
        "Squeeze Training, Equation 5 (CIFAR-10)",
        "Zipper, Figure 2 (CIFAR-10, ResNet-18)",
        "Authors' repositories (CIFAR-10)",
    ):
        assert wanted in titles


def test_a_list_in_a_pipe_has_a_line_for_each_entry(poise: Poise) -> None:
    lines = poise("list", "recipes")[1].splitlines()
    for name, recipe in recipes().items():
        what = recipe.line.removesuffix(".").partition("; published")[0]
        assert any(line.startswith(f"{name} ") and what in line for line in lines), name


def test_show_prints_settings_that_can_be_trained_and_what_they_cost(poise: Poise, tmp_path: Path) -> None:
    status, out, _ = poise("show", "at_digits", "--quick", *SMALL)
    assert status == 0
    assert "estimated training time" in out
    settings = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert (settings["type"], settings["epochs"], settings["data"]["train_images"]) == ("Experiment", 2, 150)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert json.loads(poise("show", tmp_path / "settings.json", "--no-estimate")[1]) == settings


def test_show_takes_a_run_folder(poise: Poise, run: Path) -> None:
    assert json.loads(poise("show", run, "--no-estimate")[1]) == json.loads((run / "experiment.json").read_text())


def test_export_writes_weights(poise: Poise, run: Path, tmp_path: Path) -> None:
    status, out, _ = poise("export", run, "--to", tmp_path / "net.safetensors", "--checkpoint", "last")
    assert (status, out) == (0, f"wrote {tmp_path / 'net.safetensors'}\n")
    exported, kept = (
        safetensors.torch.load(path.read_bytes())
        for path in (tmp_path / "net.safetensors", run / "checkpoints/last.safetensors")
    )
    assert all((exported[name] == tensor).all() for name, tensor in kept.items())


def test_seeds_are_run_and_on_the_second_call_gone_on_with(poise: Poise, tmp_path: Path) -> None:
    command = ("train", "nt_digits", "--quick", *SMALL, "--out", tmp_path / "many", "--no-evaluate", "--seeds")
    assert poise(*command, 1)[0] == 0
    first = files(tmp_path / "many" / "seed-0")
    for path in (tmp_path / "many" / "seed-0" / "checkpoints").glob("last.*"):
        path.unlink()  # as if it had been killed
    assert poise(*command, 2)[0] == 0
    again = files(tmp_path / "many" / "seed-0")
    assert set(again) == set(first)
    assert again["checkpoints/last.safetensors"] == first["checkpoints/last.safetensors"]
    experiments = [json.loads((tmp_path / "many" / f"seed-{seed}" / "experiment.json").read_text()) for seed in (0, 1)]
    assert [settings.pop("seed") for settings in experiments] == [0, 1]
    assert experiments[0] == experiments[1]
    about = [json.loads((tmp_path / "many" / f"seed-{seed}" / "run.json").read_text()) for seed in (0, 1)]
    assert about[0]["group"] == about[1]["group"]
    shutil.rmtree(tmp_path / "many" / "seed-1")  # as if it had been killed before it came to this seed
    assert poise("train", "--resume", tmp_path / "many", "--no-evaluate")[0] == 0
    assert json.loads((tmp_path / "many" / "seed-1" / "run.json").read_text())["group"] == about[1]["group"]
    plan = (tmp_path / "many" / ".seeds.json").read_bytes()
    status, _, err = poise(*command, 2, "epochs=1")
    assert status == 2
    assert "was started with other settings" in err
    assert (tmp_path / "many" / ".seeds.json").read_bytes() == plan
    for more in (("--seeds", 3), ("--quick",), ("--out", tmp_path / "x")):
        status, _, err = poise("train", "--resume", tmp_path / "many", *more)
        assert (status, "--resume takes settings, seeds and place from the folder" in " ".join(err.split())) == (
            2,
            True,
        )
    (tmp_path / "many" / ".seeds.json").write_text("{")
    assert ".seeds.json is damaged" in "".join(poise("train", "--resume", tmp_path / "many")[2].splitlines())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("train", "nt_digits", "seed=10", "--seeds", 3), "seed=... and --seeds: one of the two"),
        (("train", "x/experiment.json", "--quick"), "--quick is of recipes"),
        (("show", "x/experiment.json", "--quick"), "--quick is of recipes"),
    ],
)
def test_what_would_be_passed_over_is_refused(poise: Poise, given: tuple[object, ...], said: str) -> None:
    status, _, err = poise(*given)
    assert status == 2 and said in " ".join(err.split())


def test_a_page_beside_the_runs_is_no_run(poise: Poise, run: Path, tmp_path: Path) -> None:
    """`poise report runs/*` writes its page where the shell finds it the next time."""
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / "runs" / name)
    for _ in range(2):
        status, _, err = poise("report", *sorted((tmp_path / "runs").iterdir()))
        assert (status, (tmp_path / "runs" / "report.html").exists()) == (0, True), err


def test_a_refused_command_does_not_hold_the_folder_of_its_seeds(poise: Poise, tmp_path: Path) -> None:
    command = ("train", "nt_digits", "--quick", *SMALL, "--out", tmp_path / "many", "--no-evaluate", "--seeds", 1)
    assert poise(*command, "protocol.first=100000")[0] == 2
    assert poise(*command)[0] == 0
    (tmp_path / "many" / ".seeds.json").unlink()  # as earlier versions left it
    assert poise("train", "--resume", tmp_path / "many", "--no-evaluate")[0] == 0
    assert [path.name for path in (tmp_path / "many").glob("*")] == ["seed-0"], "what `poise report many/*` is given"


def test_a_users_objective_is_one_file_and_a_resume_without_it_says_so(
    poise: Poise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.core.settings._FAMILIES", {name: dict(members) for name, members in _FAMILIES.items()})
    toy, out = tmp_path / "toy_of_cli_test.py", tmp_path / "run"
    toy.write_text(TOY)
    command = (
        "train",
        "nt_digits",
        "--quick",
        *SMALL,
        "method.objective=ToyOfTest",
        "method.factor=0.5",
        "--out",
        out,
        "--no-evaluate",
    )
    status, _, err = poise(*command)
    assert status == 2
    assert "'ToyOfTest'" in err
    status, _, err = poise(*command, "--import", toy)
    assert status == 0, err
    about = json.loads((out / "run.json").read_text())
    assert about["imports"] == {str(toy): hashlib.sha256(toy.read_bytes()).hexdigest()}
    assert "loss/joint/toy" in (out / "metrics.jsonl").read_text()

    import poise.core.settings as settings

    del settings._FAMILIES["objective"]["ToyOfTest"]  # as in a new process
    for verb in (
        ("train", "--resume", out),
        ("evaluate", out),
        ("export", out, "--to", tmp_path / "x.safetensors"),
        ("show", out),
    ):
        status, _, err = poise(*verb)
        assert status == 2
        assert f"--import {toy}" in err
        assert err.count("\n") == 1
    status, _, err = poise("train", "--resume", out, "--import", toy)
    assert (status, "SHA-256" in err) == (0, False)
    del settings._FAMILIES["objective"]["ToyOfTest"]
    status, _, err = poise("export", out, "--to", tmp_path / "x.safetensors", "--import", toy)
    assert (status, (tmp_path / "x.safetensors").exists()) == (0, True), err
    toy.write_text(TOY + "\n# changed\n")
    del settings._FAMILIES["objective"]["ToyOfTest"]
    status, _, err = poise("train", "--resume", out, "--import", toy, "--no-evaluate")
    assert (status, "is not the file that the run was started with" in " ".join(err.split())) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("trian", "at_digits"), "train"),
        (("train", "at_digit"), "did you mean 'at_digits'?"),
        (("show", "generalist_cifar_resnet18"), "did you mean 'generalist_cifar10_resnet18'?"),
        (("train", "at_digits", "epoch=3"), "did you mean 'epochs'?"),
        (("train", "at_digits", "method.inner.step=3"), "did you mean 'steps'?"),
        (("train", "at_digits", "method.objective=TRADE"), "did you mean 'TRADES'?"),
        (("attack", "{run}", "PDG"), "did you mean 'PGD'?"),
        (("attack", "{run}", "PGD", "step=3"), "did you mean 'steps'?"),
        (("list", "atacks"), "did you mean 'attacks'?"),
        (
            ("evaluate", "--weights", "{run}/run.json", "--model", "DigitCNN", "--data", "Digits"),
            "did you mean 'DigitsCNN'?",
        ),
        (
            ("evaluate", "--weights", "{run}/run.json", "--model", "DigitsCNN", "--data", "Digit"),
            "did you mean 'Digits'?",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_a_slip_of_the_pen_is_answered_with_the_nearest_name(
    poise: Poise, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = poise(*(argument.format(run=run) for argument in arguments))
    assert (status, out) == (2, "")
    assert hint.lower() in err.lower()
    assert not list(tmp_path.iterdir())


WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; sys.argv = ['poise', *sys.argv[1:]]; from poise.cli import main; main()"
)


def test_help_and_report_work_without_torch(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    for arguments in (["--help"], ["train", "--help"], ["report", str(run), "--out", str(page)]):
        command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=60)
        assert done.returncode == 0, done.stderr
    assert "at_digits_quick" in page.read_text()
