"""The YAML reader: lines in every error, no bomb, no duplicate key, no crash."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.errors import ConfigError
from bot.yaml_source import YamlSource, load_yaml


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load_text(text: str | bytes) -> YamlSource:
        path = tmp_path / "some.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_yaml(path, {})

    return load_text


@pytest.fixture
def refuse(load: Any) -> Any:
    def refused(text: str | bytes) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            load(text)
        assert caught.value.file is not None
        assert caught.value.remedy
        return caught.value

    return refused


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("server:\n  port: 1\nserver:\n  port: 2\n", 3, "twice"),
        ("server: {port: 1, port: 2}", 1, "twice"),
        ("a: [1\nb: 2\n", 2, "YAML"),
        ("a: b\n\tc: d\n", 2, "YAML"),
        ("- a\n", 1, "mapping"),
        ("plain", 1, "mapping"),
        ("a: 1\n---\nb: 1\n", 2, "YAML"),
        ("a: !!python/object:os.system x\n", 1, "YAML"),
        ("a: *nobody\n", 1, "YAML"),
        ("? [a]\n: b\n", 1, "plain text"),
        ("a: 1\nb: \x07\n", 2, "U+0007"),
        (b"server:\n  host: \xff\xfe\n", 2, "UTF-8"),
    ],
)
def test_broken_yaml_names_its_line(refuse: Any, text: str | bytes, line: int, says: str) -> None:
    error = refuse(text)
    assert error.line == line
    assert says in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "plugins: {a: " + "[" * 5000 + "]" * 5000 + "}",
        "plugins: {a: &a {b: *a}}",
        "plugins: {a: &a {<<: *a}}",
        "plugins:\n  a: &n0 {x: 1}\n"
        + "".join(f"  a{n}: &n{n} [{f'*n{n - 1}, ' * 9}]\n" for n in range(1, 9)),
    ],
)
def test_yaml_bombs_are_refused(refuse: Any, text: str) -> None:
    refuse(text)


def test_anchors_and_merge_keys_work(load: Any) -> None:
    text = "plugins:\n  a: &a {x: 1, y: 2}\n  b: {<<: *a, y: 3}\n"
    assert load(text).data["plugins"]["b"] == {"x": 1, "y": 3}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path)


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@`,?\n \t${}", max_size=60).map(str.encode))
@example(b"a: 2001-99-99")
@example(b"? !!binary x\n: 1")
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(ConfigError):
        load_yaml(path, {})


def test_a_key_given_again_after_a_merge_has_its_own_line(load: Any) -> None:
    source = load("a: &a\n  x: {z: 1}\nb:\n  <<: *a\n  x: 2\n")
    assert source.data["b"] == {"x": 2}
    assert source.line(("b", "x")) == 5
    assert source.line(("b", "x", "z")) == 5  # the nearest parent
    assert source.line(("a", "x", "z")) == 2


def test_several_merged_mappings_keep_the_first_ones_word(load: Any) -> None:
    assert load("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n").data["c"] == {"x": 1, "y": 2}


def test_a_byte_order_mark_is_skipped(load: Any) -> None:
    assert load(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}
