from __future__ import annotations

import json

import pytest

from poise.core.errors import RunError
from poise.reports import read_runs


def test_a_run_folder_gives_settings_metrics_and_records(make_record, make_run):
    folder = make_run(make_record(), make_record(checkpoint="last"), gallery=True)
    (run,) = read_runs(folder)
    assert run.name == "TRADES"
    assert run.experiment["selection"] == "held-out"
    assert len(run.metrics) == 3
    assert list(run.records) == ["selected", "last"]
    assert run.gallery is not None and run.gallery.name == "gallery-selected.npz"


def test_a_folder_of_runs_gives_each_and_naming_one_twice_counts_once(make_record, make_run):
    first = make_run(make_record(seed=0))
    make_run(make_record(seed=1))
    runs = read_runs([first.parent, first])
    assert [run.path.name for run in runs] == ["TRADES-0", "TRADES-1"]


def test_a_record_file_takes_the_settings_of_the_run_it_lies_in(make_record, make_run, tmp_path):
    folder = make_run(make_record(), make_record(checkpoint="last"))
    (run,) = read_runs(folder / "records" / "last.json")
    assert list(run.records) == ["last"] and run.experiment["name"] == "TRADES"
    alone = make_record().write(tmp_path / "alone.json")
    (run,) = read_runs(alone)
    assert run.experiment == {} and run.metrics == [] and list(run.records) == ["alone"]


def test_missing_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        read_runs(tmp_path / "nothing")
    with pytest.raises(RunError, match="is not a run folder"):
        read_runs(tmp_path)
    with pytest.raises(RunError, match="no run was named"):
        read_runs([])


def test_a_run_without_records_names_the_command_that_makes_them(make_record, make_run):
    folder = make_run(make_record())
    (folder / "records" / "selected.json").unlink()
    for path in (folder, folder.parent):
        with pytest.raises(RunError, match=f"poise evaluate {folder}"):
            read_runs(path)
    make_run(make_record(seed=1))
    assert [len(run.records) for run in read_runs(folder.parent)] == [0, 1]


def test_a_cut_off_last_line_is_tolerated_and_a_damaged_line_is_named(make_record, make_run):
    folder = make_run(make_record())
    metrics = folder / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"kind": "epoch", "epo')
    assert len(read_runs(folder)[0].metrics) == 3
    lines = whole.splitlines()
    for damaged in ('{"kind": "ep', "[1, 2]"):
        metrics.write_text("\n".join([lines[0], damaged, lines[2]]) + "\n")
        with pytest.raises(RunError, match=r"metrics\.jsonl is damaged at line 2"):
            read_runs(folder)


def test_a_damaged_experiment_or_record_is_named(make_record, make_run):
    folder = make_run(make_record())
    (folder / "experiment.json").write_text("[]")
    with pytest.raises(RunError, match=r"experiment\.json is not the settings"):
        read_runs(folder)
    (folder / "experiment.json").write_text("{}")
    (folder / "records" / "selected.json").write_text("{")
    with pytest.raises(RunError, match=r"selected\.json"):
        read_runs(folder)


def test_curves_hold_every_numeric_metric_and_an_epoch_written_twice_once(make_record, make_run):
    folder = make_run(make_record())
    again = {"kind": "epoch", "epoch": 3, "step": 30, "monitor/natural": 0.5, "word": "x", "flag": True}
    other = {"kind": "resume", "epoch": 9, "monitor/natural": 0.1}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n" + json.dumps(other) + "\n")
    curves = read_runs(folder)[0].curves()
    assert set(curves) == {"monitor/natural", "loss/model/robust"}
    assert curves["monitor/natural"] == [(1, 0.3), (2, 0.6), (3, 0.5)]
