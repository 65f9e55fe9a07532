"""`python -m benchmarks` runs every benchmark of speed and writes dated results; with a name, only that one."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

PEERS = ".venv-bench/bin/python"
NAMES = ("steps", "bfloat16", "floors", "synergy_steps", "growth", "placement", "feeds", "command", "sweeping")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="default: all")
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes and one round: shows that it runs, writes nothing"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements that each median is taken from")
    given = parser.parse_args()

    import torch

    from benchmarks.measuring import write

    torch.set_num_threads(1)
    for name in [given.name] if given.name else NAMES:
        text = importlib.import_module(f"benchmarks.{name}").main(given.quick, 1 if given.quick else given.rounds)
        print(text)
        if not given.quick:
            print(f"written: {write(name, text)}\n")
    if not given.name:
        beside_others(given.quick, given.rounds)


def beside_others(quick: bool, rounds: int) -> None:
    """PGD-10 beside the peers, where their environment is."""
    if not Path(PEERS).exists():
        print(
            f"left out: peers, as there is no {PEERS}; and autoattack_vs_reference, which is given its environment by"
            " hand"
        )
        return
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers",
        "--peers",
        PEERS,
        "--rounds",
        str(rounds),
        *(["--quick"] if quick else []),
    ]
    subprocess.run(command, check=True)
    print("left out: autoattack_vs_reference, which is given its environment by hand")


if __name__ == "__main__":
    main()
