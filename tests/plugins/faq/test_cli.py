"""`glmbot faq`: what it writes, what it says, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from bot.cli import app


class Shop:
    """A folder with a configuration and one FAQ file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text("plugins: {faq: {files: [faq.yaml]}}\n", "utf-8")
        (folder / "faq.yaml").write_text("- {id: fee, question: 运费是多少？, answer: 免费}\n", "utf-8")

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(app, ["faq", *args, "-c", str(self.config)])

    def exported(self) -> list[str]:
        return [row["id"] for row in yaml.safe_load(self.run("export").stdout)]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_imported_entries_are_exported_beside_those_of_the_files(shop: Shop) -> None:
    more = shop.folder / "more.csv"
    more.write_text("question,answer,id\n怎么退货,七天内,back\n", "utf-8")
    done = shop.run("import", str(more))
    assert done.exit_code == 0
    assert "1 new, 0 changed, 0 unchanged, 0 removed; 1 imported entries" in done.stdout
    assert sorted(shop.exported()) == ["back", "fee"]


def test_an_import_takes_all_files_or_none(shop: Shop) -> None:
    good, bad = shop.folder / "good.csv", shop.folder / "bad.csv"
    good.write_text("question,answer\na,b\n", "utf-8")
    bad.write_text("question,answer\nc,d\n,e\n", "utf-8")
    done = shop.run("import", str(good), str(bad))
    assert done.exit_code == 2
    assert "bad.csv: row 3: the question is empty" in done.stderr
    assert shop.exported() == ["fee"]


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx", "out.yaml"])
def test_an_export_can_be_imported_elsewhere(
    shop: Shop, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    out = shop.folder / name
    assert shop.run("export", "--out", str(out)).exit_code == 0
    other = Shop(tmp_path_factory.mktemp("other"))
    (other.folder / "faq.yaml").write_text("", "utf-8")
    assert other.run("import", str(out)).exit_code == 0
    assert other.exported() == ["fee"]


def test_an_export_that_cannot_be_written_leaves_nothing(shop: Shop) -> None:
    (shop.folder / "out.csv").mkdir()
    done = shop.run("export", "--out", str(shop.folder / "out.csv"))
    assert done.exit_code == 2
    assert "out.csv: cannot be written" in done.stderr
    assert list(shop.folder.glob(".out*")) == []
    assert shop.run("export", "--format", "xlsx").exit_code == 2
    assert shop.run("export", "--out", "out.pdf").exit_code == 2


def test_a_question_is_tried_out(shop: Shop) -> None:
    done = shop.run("test", "運費是多少")
    assert done.exit_code == 0
    assert "1.00 fee" in done.stdout
    assert "免费" in done.stdout
    done = shop.run("test", "明天下雨吗")
    assert done.exit_code == 1
    assert "not answered" in done.stdout


def test_a_file_of_questions_says_how_many_are_as_expected(shop: Shop) -> None:
    cases = shop.folder / "cases.txt"
    cases.write_text("运费是多少\tfee\n明天下雨吗\t-\n\n", "utf-8")
    done = shop.run("test", "--file", str(cases))
    assert done.exit_code == 0
    assert "2 of 2 as expected" in done.stdout
    cases.write_text("运费是多少\tback\n明天下雨吗\n", "utf-8")
    done = shop.run("test", "--file", str(cases))
    assert done.exit_code == 1
    assert "expected back" in done.stdout


def test_without_a_question_the_files_are_checked(shop: Shop) -> None:
    done = shop.run("test")
    assert (done.exit_code, done.stdout) == (0, "1 entries, no problem found\n")
    (shop.folder / "faq.yaml").write_text("- {question: a, answer: ''}\n", "utf-8")
    done = shop.run("test")
    assert done.exit_code == 2
    assert "faq.yaml: row 1: the answer is empty" in done.stderr


def test_a_wrong_configuration_is_one_line(shop: Shop) -> None:
    shop.config.write_text("plugins: {faq: {flies: []}}\n", "utf-8")
    done = shop.run("export")
    assert done.exit_code == 2
    assert "files" in done.stderr
    assert len(done.stderr.splitlines()) == 1
