"""How the benchmarks measure."""

from __future__ import annotations

import re

import torch
from benchmarks import measuring
from benchmarks.measuring import Figure, interleaved, peak_bytes, ratio, table, write


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    order: list[str] = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abc" + "abc" + "cba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_ratio_is_taken_round_by_round():
    """A round in which the whole machine was ten times slower leaves no trace."""
    assert ratio([2, 20, 2], [1, 10, 1]) == Figure(2, 2, 2)
    assert ratio([2, 3, 4], [1, 1, 1]).text(1) == "3.0 (2.0-4.0)"


def test_peak_counts_what_is_alive_at_one_moment():
    kept = torch.zeros(1000)

    def run() -> None:
        first = kept + 1  # 4000 bytes
        second = torch.cat([first, first])  # 8000 more, together 12000
        del first, second
        (kept + 2).sum()

    assert 12000 <= peak_bytes(run) < 13000


def test_results_are_dated_and_name_the_machine(tmp_path):
    path = write("steps", table(["a", "b"], [["x", 1]]), tmp_path)
    assert path.name.endswith(f"-steps-{measuring.chip()}.md") and path.name[:4].isdigit()
    assert re.fullmatch(r"[a-z0-9-]+", measuring.chip())
    assert path.read_text() == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_page_names_machine_and_command():
    text = measuring.page("Title", "python -m benchmarks steps", {"Seconds": "..."})
    assert (
        "`python -m benchmarks steps`" in text
        and "-core" in text
        and f"torch {torch.__version__.split('+')[0]}" in text
    )
