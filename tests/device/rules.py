"""The pretended GPU keeps a GPU's rules."""

from __future__ import annotations

import pytest
import torch
from benchmarks.pretended import Illegal, pretended_gpu

from poise.core.transfers import fetched, sent

GPU = torch.device("cuda")


def test_devices_do_not_mix_and_each_wait_has_its_line() -> None:
    with pretended_gpu() as gpu:
        x = torch.arange(4.0, device=GPU)
        assert not gpu.waits
        for mixed in (
            lambda: x + torch.ones(4),
            lambda: torch.stack([x[0], torch.ones(())]),
            lambda: torch.ones(4)[x.long()],
        ):
            with pytest.raises(Illegal):
                mixed()
        assert torch.equal((x + torch.ones(())).cpu(), torch.arange(1.0, 5))
        gpu.waits.clear()
        waiting = [
            x.sum().item,
            lambda: bool(x[0] > 1),
            x.nonzero,
            lambda: x[x > 1],
            lambda: x[torch.tensor([0])],
            x.tolist,
            x.cpu,
        ]
        for wait in waiting:
            wait()
        assert gpu.waits.total() == len(waiting) and all("tests/device/rules.py:" in wait for wait in gpu.waits)


def test_a_graph_follows_memory_and_may_not_wait() -> None:
    with pretended_gpu() as gpu:
        x, graph = torch.ones(3, device=GPU), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = 2 * x + 1
        x.fill_(4)
        graph.replay()
        assert torch.equal(y.cpu(), torch.full((3,), 9.0)) and gpu.tally.kernels == 4 and not gpu.faults
        with pytest.raises(Illegal, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            float(y.sum())
        del x
        graph.replay()
        assert "nobody holds" in next(iter(gpu.faults))


def test_a_stream_must_wait_for_what_another_wrote() -> None:
    with pretended_gpu() as gpu:
        x, aside = torch.ones(3, device=GPU), torch.cuda.Stream()
        with torch.cuda.stream(aside):
            y = x + 1
        assert "reads" in next(iter(gpu.faults))
        gpu.faults.clear()
        usual = torch.cuda.current_stream()
        aside.wait_stream(usual)
        with torch.cuda.stream(aside):
            z = x + y
        usual.wait_stream(aside)
        assert torch.equal((z + 1).cpu(), torch.full((3,), 4.0)) and not gpu.faults


def test_what_is_copied_to_the_host_is_there_when_it_was_waited_for() -> None:
    with pretended_gpu() as gpu:
        x = torch.ones(3, device=GPU)
        buffer = torch.empty(3, pin_memory=True)
        buffer.copy_(x, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        assert not torch.equal(buffer, torch.ones(3)) and not gpu.waits
        event.synchronize()
        assert torch.equal(buffer, torch.ones(3)) and gpu.waits.total() == 1


def test_sending_waits_for_nothing_and_fetching_once() -> None:
    parts = [
        torch.arange(6.0).view(2, 3),
        torch.tensor(7),
        torch.rand(1, 2, 3, 3).to(memory_format=torch.channels_last),
        torch.empty(0),
    ]
    with pretended_gpu() as gpu:
        ours = [sent(part, GPU) for part in parts]
        assert not gpu.waits
        back = fetched([*ours, parts[0]])
        assert gpu.waits.total() == 1 and all(part.is_contiguous() for part in back)
        assert all(
            torch.equal(part, whole) and part.dtype == whole.dtype
            for part, whole in zip(back, [*parts, parts[0]], strict=True)
        )
