"""A pretended GPU: its tensors say "cuda:0", compute on the CPU and keep a GPU's rules, so that its path is proven
without one.

    from benchmarks.pretended import pretended_gpu
    with pretended_gpu() as gpu:
        ...  # anything of Poise, on device "cuda"
    gpu.waits, gpu.faults, gpu.tally

Rules that are kept: an operation does not mix the GPU's tensors with the host's; each wait of the host is counted with
the line of Poise that waits; a CUDA graph is the list of operations done under capture, repeated on the same memory
without Python in between; under capture the host may not wait; memory that a graph reads must be held by somebody; a
copy that is not waited for has not arrived; a stream that reads what another one wrote must have waited for it. It
cannot show a kernel's rounding, memory pools, autocast or speed.

It takes torch's one place for backends written in Python, for good: use it in a process of its own.
"""

from benchmarks.pretended.gpu import Gpu, Illegal, Tally
from benchmarks.pretended.runtime import pretended_gpu

__all__ = ["Gpu", "Illegal", "Tally", "pretended_gpu"]
