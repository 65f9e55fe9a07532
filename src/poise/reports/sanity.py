"""Verdicts of `poise sanity` in words: for the page, as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poise.core.printing import printable
from poise.core.verdicts import Finding, Verdict, summary
from poise.core.wording import flatten
from poise.reports.collect import Run
from poise.reports.formats import escape_markdown
from poise.reports.plots import group_of

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_STYLES = {"flaw": "bold red", "warning": "yellow", "pass": "green", "not applicable": "dim"}


@dataclass(frozen=True)
class VerdictSection:
    """One verdict for the page. alarms: flaws, then warnings; findings: all of them; facts: how it was inspected."""

    title: str
    summary: str
    sound: bool
    alarms: list[Finding]
    findings: list[Finding]
    facts: list[str]


def verdict_sections(runs: Sequence[Run], labels: Mapping[str, str]) -> list[VerdictSection]:
    """A section for every verdict of the runs, in their order; `labels` names groups of runs."""
    sections = []
    for run in runs:
        for verdict in run.verdicts:
            title = f"{labels.get(group_of(run), verdict.model or run.name)}, {run.path.name} ({verdict.checkpoint})"
            sentence, sound = summary(verdict.findings), not verdict.alarms
            sections.append(
                VerdictSection(title, sentence, sound, verdict.alarms, list(verdict.findings), facts(verdict))
            )
    return sections


def facts(verdict: Verdict) -> list[str]:
    """What was inspected and how, a phrase each."""
    threat = {name: value for name, value in flatten(verdict.threat).items() if name in ("type", "epsilon")}
    effort = {name.replace("_", " "): value for name, value in flatten(verdict.effort).items() if name != "type"}
    return [
        (
            f"the first {verdict.count} images of {verdict.dataset or 'the data'}, {100 * verdict.natural_accuracy:.1f}"
            " % right unattacked"
        ),
        f"{' '.join(threat.values())}",
        f"seed {verdict.seed}",
        ", ".join(f"{name} {value}" for name, value in effort.items()),
        f"{verdict.seconds:.0f} s on {verdict.device}",
    ]


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict as GitHub's Markdown: a table of every check, then what to do about each alarm."""
    title = escape_markdown(f"{verdict.model} ({verdict.checkpoint})" if verdict.checkpoint else verdict.model)
    lines = [
        f"### Sanity of {title}: {summary(verdict.findings)}",
        "",
        *(f"{'; '.join(map(escape_markdown, facts(verdict)))}.",),
        "",
    ]
    lines += ["| check | verdict | seen |", "| --- | --- | --- |"]
    for finding in verdict.findings:
        judgement = f"**{finding.judgement}**" if finding.alarming else finding.judgement
        lines.append(f"| {escape_markdown(finding.title)} | {judgement} | {escape_markdown(finding.seen)} |")
    for finding in verdict.alarms:
        lines += ["", f"**{escape_markdown(finding.title)}** ({finding.judgement}). {escape_markdown(finding.means)}"]
        lines.append(f"Next: {escape_markdown(finding.then)}")
    return "\n".join(lines) + "\n"


def verdict_terminal(verdict: Verdict) -> RichTable:
    """A rich table of every check; what alarms says below what was seen what it means and what to run next."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    title = (
        f"sanity of {verdict.model}{f' ({verdict.checkpoint})' if verdict.checkpoint else ''}:"
        f" {summary(verdict.findings)}"
    )
    table = RichTable(
        title=Text(printable(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=Text(printable("; ".join(facts(verdict)))),
    )
    table.caption_justify = "left"
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seen", overflow="fold")
    for finding in verdict.findings:
        text = Text(printable(finding.seen))
        if finding.alarming:
            text.append(f"\n{finding.means}", style="dim").append(f"\nNext: {finding.then}", style="italic")
        table.add_row(Text(printable(finding.title)), Text(finding.judgement, style=_STYLES[finding.judgement]), text)
    return table
