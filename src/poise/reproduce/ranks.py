"""What each rank runs where an item's learners train side by side: `torchrun -m poise.reproduce.ranks SETTINGS FOLDER
DEVICE DATA`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from poise import recipes  # registers the classes that settings name
from poise.core.distributed import leave
from poise.core.settings import read_file
from poise.engine import Experiment, train_or_resume


def main(settings: str, folder: str, device: str, data_dir: str) -> None:
    assert recipes
    train_or_resume(read_file(Experiment, Path(settings)), folder, device=device, data_dir=data_dir or None)
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
