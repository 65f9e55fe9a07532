"""`python -m benchmarks` runs every benchmark of speed and writes dated results; with a name, only that one."""

from __future__ import annotations

import argparse
import importlib

NAMES = ("steps", "synergy_steps", "growth", "placement", "command")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="default: all")
    parser.add_argument("--quick", action="store_true", help="toy sizes and one round: shows that it runs, writes nothing")
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


if __name__ == "__main__":
    main()
