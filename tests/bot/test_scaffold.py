"""New plugins: what is written, and which names are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.config import load_config
from bot.errors import DataError
from bot.loader import load_plugins
from bot.scaffold import LONGEST, new_plugin


def test_a_new_plugin_loads_as_it_is(tmp_path: Path) -> None:
    plugin, test = new_plugin("night-desk", tmp_path / "mine")
    assert (plugin.name, test.name) == ("night_desk.py", "test_night_desk.py")
    config = tmp_path / "config.yaml"
    config.write_text("plugin_folders: [mine]\nplugins: {night-desk: {greeting: Hi}}\n", "utf-8")
    plugins = load_plugins(load_config(config))
    assert not plugins.failures
    mine = next(item for item in plugins.loaded if item.plugin.name == "night-desk")
    kinds = [handler.kind for handler in mine.plugin.handlers]
    assert kinds == ["command", "command", "message"]
    assert {path.name for path in plugin.parent.iterdir()} >= {plugin.name, test.name}
    assert not list(plugin.parent.glob(".*"))


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "1st", "with blank", "a.b", "../up", "-x", "x-", "a--b", "x" * (LONGEST + 1), "café"),
        *("class", "json", "pytest", "bot", "model", "faq", "test_it", "conftest"),
    ],
)
def test_a_name_that_would_not_work_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        new_plugin(name, tmp_path / "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["shop.py", "test_shop.py", "shop"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine", "utf-8")
    with pytest.raises(DataError, match="exists already"):
        new_plugin("shop", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text("utf-8") == "mine"
