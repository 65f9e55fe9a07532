"""pytest -p benchmarks.pretended.plugin: any tests on a machine with a (pretended) GPU, which device="auto" then finds.

Networks are not compiled there. Faults and the places that waited most often are printed at the end.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import poise.learners.compiled
from benchmarks.pretended import pretended_gpu

_STACK = ExitStack()
_GPU = _STACK.enter_context(pretended_gpu())
poise.learners.compiled.compiled_call = lambda function: function


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tell = terminalreporter.write_line
    tell(f"pretended GPU: {len(_GPU.graphs)} graphs, {_GPU.replays} replays, {_GPU.tally}")
    for what, counted in (("fault", _GPU.faults), ("wait", _GPU.waits)):
        for place, count in counted.most_common(20):
            tell(f"{count:6d} x {what}: {place}")
