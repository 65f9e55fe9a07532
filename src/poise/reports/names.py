"""What the rows of a table are called: by their own name and, where several share it, by the settings in which they
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poise.core.identity import definition
from poise.core.wording import told_apart
from poise.reports.collect import Run
from poise.reports.statistics import Group

_SETTINGS_SAID = 4


def group_labels(groups: Sequence[Group], runs: Sequence[Run] = ()) -> dict[str, str]:
    """{group key: label}, all different; runs: whose settings are known. Where no setting tells groups apart their
    runs' names do.
    """
    models = {group.key: group.first.model or "network" for group in groups}
    settings = settings_of(groups, runs)
    labels: dict[str, str] = {}
    for name in dict.fromkeys(models.values()):
        keys = [key for key, model in models.items() if model == name]
        labels |= {keys[0]: name} if len(keys) == 1 else _labels(name, keys, settings)
    return _unique(labels, {group.key: group.first.run for group in groups})


def settings_of(groups: Sequence[Group], runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    """{group key: the settings of its experiment, as JSON} of those that are known."""
    keys = {group.key for group in groups}
    settings: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for record in run.records.values():
            if run.experiment and record.group in keys:
                settings.setdefault(record.group, run.experiment)
    return settings


def _labels(name: str, keys: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    keys_known = [key for key in keys if key in settings]
    parts = dict(zip(keys_known, told_apart([definition(settings[key]) for key in keys_known]), strict=True))
    labels = {}
    for key in keys:
        parts_own = [part for part in parts.get(key, []) if part not in name.split(", ")]
        more = [f"{len(parts_own) - _SETTINGS_SAID} more settings"] if len(parts_own) > _SETTINGS_SAID + 1 else []
        labels[key] = ", ".join([name, *parts_own[: _SETTINGS_SAID if more else None], *more])
    return labels


def _unique(labels: Mapping[str, str], runs: Mapping[str, str]) -> dict[str, str]:
    """The labels, with the names of runs, or else a number, where several are alike."""

    def repeated(among: Mapping[str, str]) -> set[str]:
        return {label for label in among.values() if list(among.values()).count(label) > 1}

    same = repeated(labels)
    labels_unique = {
        key: f"{label} (run {runs[key]})" if label in same and runs[key] else label for key, label in labels.items()
    }
    same, places = repeated(labels_unique), dict[str, int]()
    for key, label in labels_unique.items():
        places[label] = places.get(label, 0) + 1
        labels_unique[key] = f"{label} ({places[label]})" if label in same else label
    return labels_unique
