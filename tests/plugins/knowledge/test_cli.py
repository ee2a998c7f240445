"""`glmbot kb`: add, list, remove, search, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bot.cli import app


class Library:
    """A folder with a configuration and one document in docs/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text("plugins: {knowledge: {folders: [docs]}}\n", "utf-8")
        self.write("docs/guide.md", "# 配送说明\n\n新疆和西藏满 199 元包邮。")

    def write(self, name: str, text: str | bytes) -> Path:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(app, ["kb", *args, "-c", str(self.config)])

    def ids(self) -> dict[str, str]:
        """id by file name, as `list` shows them."""
        lines = [line.split() for line in self.run("list").stdout.splitlines()]
        return {Path(line[3]).name: line[0] for line in lines}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_documents_are_added_listed_and_removed(library: Library) -> None:
    library.write("more/a.md", "# A\nalpha")
    library.write("more/sub/b.txt", "beta beta.")
    done = library.run("add", str(library.folder / "more"))
    assert done.exit_code == 0
    assert "2 added, 0 unchanged, 0 not read" in done.stdout
    ids = library.ids()
    assert set(ids) == {"guide.md", "a.md", "b.txt"}
    again = library.run("add", str(library.folder / "more"))
    assert "0 added, 2 unchanged, 0 not read" in again.stdout
    assert library.run("remove", ids["a.md"]).exit_code == 0
    assert set(library.ids()) == {"guide.md", "b.txt"}


def test_one_bad_file_does_not_stop_the_others(library: Library) -> None:
    library.write("more/a.md", "# A\nalpha")
    bad = library.write("more/b.md", b"\x00")
    done = library.run("add", str(library.folder / "more"))
    assert done.exit_code == 1
    assert f"{bad}: not a text file" in done.stderr
    assert "a.md" in library.ids()
    assert library.run("add", str(bad)).exit_code == 2
    assert library.run("add", str(library.folder / "absent.md")).exit_code == 2


def test_what_cannot_be_removed_is_said(library: Library) -> None:
    folders = library.run("remove", library.ids()["guide.md"])
    assert folders.exit_code == 2
    assert "configured folder" in folders.stderr
    unknown = library.run("remove", "nothing")
    assert unknown.exit_code == 2
    assert "kb list" in unknown.stderr


def test_a_search_shows_the_passage_and_whether_it_is_answered(library: Library) -> None:
    library.config.write_text("plugins: {knowledge: {folders: [docs], threshold: 0.2}}\n", "utf-8")
    done = library.run("search", "新疆西藏满多少包邮")
    assert done.exit_code == 0
    assert "配送说明" in done.stdout
    assert "199" in done.stdout
    library.config.write_text("plugins: {knowledge: {folders: [docs], threshold: 1.0}}\n", "utf-8")
    done = library.run("search", "新疆西藏满多少包邮")
    assert done.exit_code == 1
    assert "below the threshold" in done.stdout
