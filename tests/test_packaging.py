"""What an installation makes of the native library: setup.py over a tree whose C++ is short."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

from model.kernels.library import FILE, FUNCTIONS

ROOT = Path(__file__).parent.parent
NATIVE = FILE.parent.relative_to(ROOT).as_posix()
LIBRARY, NOTE = f"{NATIVE}/{FILE.name}", f"{NATIVE}/not_built.txt"
CUDA_SOURCES = "model/kernels/cuda_sources"
COPIED = (
    "setup.py",
    "MANIFEST.in",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "model/types.py",
    "model/kernels/library.py",
)
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
STUBS = "".join(
    f'extern "C" __attribute__((visibility("default"))) {kind} {name}() {{ return {value}; }}\n'
    for name, (kind, value) in (
        dict.fromkeys(FUNCTIONS, ("void*", "nullptr"))
        | {"glm_abi": ("int", "GLM_ABI"), "glm_isas": ("const char*", '"best scalar"')}
    ).items()
)
OPEN = "from model.kernels.library import open_library; print(open_library().isas)"

pytestmark = [
    pytest.mark.skipif(
        int(version("setuptools").partition(".")[0]) < 77,
        reason="setuptools is older than what builds glmbot",
    ),
    pytest.mark.skipif(sys.platform == "win32", reason="the stubs are for other compilers"),
]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with all packages, nearly empty, and two sources in the place of the true ones."""
    root = tmp_path / "tree"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in project["tool"]["setuptools"]["packages"]:
        folder = root.joinpath(*package.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    for name in COPIED:
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "cuda", root / "cuda")
    native = root / NATIVE
    native.mkdir()
    (native / "glm_cpu.h").write_text("#define GLM_ABI 1\n", encoding="utf-8")
    (native / "kernels.hpp").write_text('#include "detail.inl"\n', encoding="utf-8")
    (native / "detail.inl").write_text('#include "glm_cpu.h"\n', encoding="utf-8")
    (native / "stubs.cpp").write_text(f'#include "kernels.hpp"\n{STUBS}', encoding="utf-8")
    (native / "second.cpp").write_text('#include "kernels.hpp"\n', encoding="utf-8")
    return root


def build(tree: Path, kind: str, **environ: str) -> tuple[Path, str]:
    """What pip lets setuptools build, "wheel", "sdist" or "editable", and what is printed meanwhile."""
    hook = f"from setuptools import build_meta; print('built:', build_meta.build_{kind}('out'))"
    (tree / "out").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", hook],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": "", **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name = done.stdout.rpartition("built:")[2].strip()
    return tree / "out" / name, done.stdout + done.stderr


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python with nothing but its own library and what lies in the folder."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"],
        capture_output=True,
        text=True,
    )


def unpacked(wheel: Path, folder: Path) -> list[str]:
    """The names of a wheel's files, put into a folder."""
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
        return archive.namelist()


@needs_compiler
def test_a_wheel_carries_the_library_for_every_python_of_its_platform(tree: Path, tmp_path: Path) -> None:
    wheel, _ = build(tree, "wheel")
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    names = unpacked(wheel, tmp_path / "installed")
    assert [name for name in names if name.startswith(NATIVE)] == [LIBRARY]
    done = run(OPEN, tmp_path / "installed")
    assert done.stdout == "['best', 'scalar']\n", done.stderr


def test_a_source_distribution_carries_all_sources(tree: Path) -> None:
    archive, _ = build(tree, "sdist")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {file.relative_to(tree).as_posix() for file in (tree / NATIVE).iterdir()} | {"setup.py"} <= names
    suffixes = {file.suffix for file in (ROOT / NATIVE).iterdir()} - {FILE.suffix, ".txt"}
    assert suffixes <= {file.suffix for file in (tree / NATIVE).iterdir()}  # setup.py names them
    assert {f"cuda/{file.name}" for file in (ROOT / "cuda").iterdir()} <= names


def test_a_wheel_carries_the_kernels_for_graphics_cards_and_no_package_cuda(
    tree: Path, tmp_path: Path
) -> None:
    wheel, _ = build(tree, "wheel", CXX="no-such-compiler")
    names = set(unpacked(wheel, tmp_path / "installed"))
    sources = {file.name for file in (ROOT / "cuda").iterdir() if file.suffix in (".cu", ".cuh")}
    assert {f"{CUDA_SOURCES}/{name}" for name in sources} <= names
    assert len(sources) > 7
    assert not [name for name in names if name.startswith("cuda/")]


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"CXX": "/bin/false"}, "/bin/false failed"),
        ({"CXX": "no-such-compiler"}, "no-such-compiler was not found"),
        ({"PATH": "/nowhere"}, "was not found"),
    ],
)
def test_without_a_compiler_the_installation_goes_on_and_says_why(
    tree: Path, tmp_path: Path, environ: dict[str, str], reason: str
) -> None:
    wheel, output = build(tree, "wheel", **environ)
    warnings = [line for line in output.splitlines() if "native CPU library" in line]
    assert len(warnings) == 1
    assert reason in warnings[0]
    names = unpacked(wheel, tmp_path / "installed")
    assert [name for name in names if name.startswith(NATIVE)] == [NOTE]
    done = run(OPEN, tmp_path / "installed")
    last = done.stderr.splitlines()[-1]
    assert "the native library is not built" in last
    assert reason in last


@needs_compiler
def test_an_editable_installation_builds_beside_the_sources_and_anew_every_time(tree: Path) -> None:
    library, note, source = tree / LIBRARY, tree / NOTE, tree / NATIVE / "second.cpp"
    build(tree, "editable")
    assert run(OPEN, tree).stdout == "['best', 'scalar']\n"
    source.write_text("this is no C++\n", encoding="utf-8")
    build(tree, "editable")
    assert not library.exists()  # that of older sources
    assert "failed" in note.read_text(encoding="utf-8")
    source.write_text("", encoding="utf-8")
    build(tree, "editable")
    assert library.exists()
    assert not note.exists()


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no git here")
def test_what_is_built_stays_out_of_the_repository() -> None:
    built = [f"{NATIVE}/{name}" for name in ("libglm_cpu.so", "libglm_cpu.dylib", "glm_cpu.dll")]
    done = subprocess.run(
        ["git", "check-ignore", *built, NOTE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [*built, NOTE]
