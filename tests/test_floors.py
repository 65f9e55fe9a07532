"""The house has floors: imports go strictly downwards, and inside a package they are acyclic."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import poise

ROOT = Path(poise.__file__).parent
FLOORS = {
    "core": 0,
    "threats": 1,
    "losses": 1,
    "models": 1,
    "data": 1,
    "attacks": 2,
    "objectives": 3,
    "evaluation": 3,
    "learners": 4,
    "methods": 5,
    "reports": 5,
    "engine": 6,
    "recipes": 7,
    "interop": 7,
    "zoo": 7,
    "verbs": 8,
    "sweeps": 9,
    "reproduce": 10,
    "cli": 11,
}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Modules of Poise that a file imports; with `everywhere`, also inside functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return {name for name in names if name.split(".")[0] == "poise"}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_a_floor():
    assert {package(module) for module in MODULES} - {""} <= set(FLOORS)


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module != "poise"))
def test_imports_go_strictly_downwards(module):
    here = FLOORS[package(module)]
    for other in imported(MODULES[module]) - {"poise"}:
        if package(other) != package(module):
            assert FLOORS[package(other)] < here, (
                f"{module} (floor {here}) imports {other} (floor {FLOORS[package(other)]})"
            )


@pytest.mark.parametrize("name", [name for name in FLOORS if (ROOT / name).is_dir()])
def test_packages_are_acyclic_inside(name):
    inside = {module: imported(path, everywhere=False) for module, path in MODULES.items() if package(module) == name}
    front = f"poise.{name}"
    edges = {
        module: {other for other in others if other in inside and other != front}
        for module, others in inside.items()
        if module != front
    }
    while edges:
        leaves = {module for module, others in edges.items() if not others & set(edges)}
        assert leaves, f"these modules import each other: {sorted(edges)}"
        edges = {module: others for module, others in edges.items() if module not in leaves}


def test_only_the_verbs_and_the_command_line_know_both_engine_and_reports():
    for module, path in MODULES.items():
        packages = {package(other) for other in imported(path)}
        assert not {"engine", "reports"} <= packages or package(module) in (
            "verbs",
            "sweeps",
            "reproduce",
            "cli",
            "",
        ), module


def test_no_junk_drawers():
    # whose names are others'
    ours = [module for module in MODULES if not module.startswith("poise.interop.robustbench")]
    assert not [module for module in ours if module.split(".")[-1] in ("utils", "helpers", "common", "misc", "manager")]


BLOCKED = "import sys; sys.modules['torch'] = None\n"


@pytest.mark.parametrize(
    "code", ["import poise", "import poise.cli", "import poise.reports, poise.reports.collect, poise.reports.html"]
)
def test_light_parts_import_without_torch(code):
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
