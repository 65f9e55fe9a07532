"""Verdicts: JSON round trip, sections of the page and of Markdown, the terminal's table; all without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from poise.core.errors import RunError
from poise.core.verdicts import Finding, Verdict, summary
from poise.reports import read_runs
from poise.reports.html import render
from poise.reports.sanity import verdict_markdown, verdict_terminal

FINDINGS = [
    Finding("pixel_units", "pass", "epsilon = 0.2 is in [0, 1] units."),
    Finding(
        "black_box", "warning", "Square | breaks 7.", "Gradients mislead <somewhere>.", "Run AutoAttack.", {"p": 0.1}
    ),
    Finding("saturated_logits", "flaw", "Softmax is sure.", "No gradient.", "Divide the logits."),
    Finding("hard_choice", "not applicable", "No choice."),
]


def verdict(findings: list[Finding] | None = None, **changes: object) -> Verdict:
    values: dict[str, object] = {
        "model": "AT",
        "checkpoint": "selected",
        "model_digest": "d",
        "run": "at",
        "dataset": "Digits",
        "split": "test",
        "count": 40,
        "natural_accuracy": 0.95,
        "threat": {"type": "Linf", "epsilon": 0.2},
        "effort": {"type": "Effort", "steps": 20},
        "seed": 0,
        "findings": FINDINGS if findings is None else findings,
        "attacks": {"PGD-20": 0.5},
        "seconds": 3.0,
        "started": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "versions": {"poise": "0.1.0"},
    }
    return Verdict(**{**values, **changes})  # type: ignore[arg-type]


def test_a_verdict_survives_json(tmp_path):
    made = verdict()
    assert Verdict.read(made.write(tmp_path / "sanity.json")) == made


def test_the_worst_finding_is_the_judgement_and_alarms_come_by_severity():
    made = verdict()
    assert made.judgement == "flaw"
    assert [finding.check for finding in made.alarms] == ["saturated_logits", "black_box"]
    assert made["black_box"].title == "black box"
    assert verdict(FINDINGS[:1]).judgement == "pass"
    assert verdict([]).judgement == "not applicable"
    assert summary(FINDINGS) == "1 flaw, 1 warning, 1 passed"
    assert summary([FINDINGS[2]] * 2) == "2 flaws"
    with pytest.raises(KeyError, match="no check 'nothing'; it has pixel_units"):
        made["nothing"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format="other"), "is not a verdict of format 'poise.verdict.1'"),
        (lambda data: data.pop("threat"), "is not a complete verdict"),
        (lambda data: data["findings"][0].pop("seen"), "is not a complete verdict"),
        (
            lambda data: data["findings"][0].update(judgement="fine"),
            "or was damaged: its sha256 is not the digest of what it says",
        ),
    ],
)
def test_damaged_verdicts_are_refused(tmp_path, change, message):
    path = verdict().write(tmp_path / "sanity.json")
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=message):
        Verdict.read(path)
    path.write_text("{")
    with pytest.raises(RunError, match="cannot be read as a verdict"):
        Verdict.read(path)
    with pytest.raises(RunError, match="there is no verdict"):
        Verdict.read(tmp_path / "none.json")


def test_the_page_shows_verdicts_beside_records(make_record, make_run):
    folder = make_run(make_record(model="AT"))
    assert "Can it be believed?" not in render(read_runs([folder]))
    verdict().write(folder / "records" / "sanity.json")
    verdict(FINDINGS[:1], checkpoint="last").write(folder / "records" / "sanity-last.json")
    (run,) = read_runs([folder])
    assert list(run.records) == ["selected"]
    assert [found.checkpoint for found in run.verdicts] == ["selected", "last"]
    page = render([run])
    for part in (
        "Can it be believed?",
        "1 flaw, 1 warning, 1 passed",
        "saturated logits (flaw)",
        "Gradients mislead &lt;somewhere&gt;.",
    ):
        assert part in page
    assert page.index("saturated logits (flaw)") < page.index("black box (warning)")


def test_markdown_and_terminal_tell_every_check():
    text = verdict_markdown(verdict())
    assert text.startswith("### Sanity of AT (selected): 1 flaw, 1 warning, 1 passed\n")
    assert "| saturated logits | **flaw** | Softmax is sure. |" in text
    assert "Square \\| breaks 7." in text and "&lt;somewhere&gt;" in text
    assert "Next: Divide the logits." in text
    assert verdict_terminal(verdict()).row_count == 4


def test_verdicts_are_read_with_torch_blocked(tmp_path):
    path = verdict().write(tmp_path / "sanity.json")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom poise.core.verdicts import Verdict\nimport poise.reports.sanity"
        " as reports\n"
    )
    code += f"print(reports.verdict_markdown(Verdict.read({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Sanity of AT" in done.stdout
