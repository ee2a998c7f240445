"""API keys: hashes at rest, a file that changes while the server runs, and who is let in."""

from __future__ import annotations

import errno
import hmac
import json
import os
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from structlog.testing import capture_logs

from model.http.keys import KeyFile, Keys
from model.types import ModelError
from tests.model.http.talker import Talker, error_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


# -- the file --------------------------------------------------------------------------------


def test_only_hashes_are_kept_and_only_the_owner_reads_them(file: Path) -> None:
    token = KeyFile(file).create("shop", requests_per_minute=5)
    text = file.read_text("utf-8")
    assert token not in text
    assert token.removeprefix("sk-") not in text
    (entry,) = json.loads(text)["keys"]
    assert entry.keys() == {"name", "sha256", "created", "requests_per_minute"}
    assert entry["sha256"] == sha256(token.encode()).hexdigest()
    assert len(token) == len("sk-") + 43  # 32 bytes
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_are_created_listed_and_revoked(file: Path) -> None:
    keys = KeyFile(file)
    assert keys.read() == []
    tokens = {keys.create(name) for name in ("a", "b", "c-1.x_")}
    assert len(tokens) == 3
    keys.revoke("b")
    assert [key.name for key in keys.read()] == ["a", "c-1.x_"]
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


@pytest.mark.parametrize("name", ["", "a:b", "-a", "a b", "a\n", "店", "x" * 65])
def test_names_that_would_be_unclear_are_refused(file: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no name for a key"):
        KeyFile(file).create(name)


def test_a_name_is_given_once(file: Path) -> None:
    keys = KeyFile(file)
    keys.create("a")
    with pytest.raises(ModelError, match="a key 'a' already"):
        keys.create("a")
    with pytest.raises(ModelError, match=r"no key 'b'.*known are: a"):
        keys.revoke("b")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [{"name": "a"}]}', '{"keys": [], "more": 1}'])
def test_another_file_is_neither_read_nor_written_over(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    with pytest.raises(ModelError, match="no file of API keys"):
        KeyFile(file).create("a")
    assert file.read_text("utf-8") == text
    with pytest.raises(ModelError, match="no file of API keys"):
        Keys(file=file)


def test_a_failed_write_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyFile(file)
    keys.create("a")
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="cannot be written: No space left"):
        keys.create("b")
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


def test_commands_at_the_same_time_do_not_undo_each_other(file: Path) -> None:
    KeyFile(file).create("leaked")
    code = "import sys, pathlib, model.http.keys as keys; file = keys.KeyFile(pathlib.Path(sys.argv[1]))"
    commands = [f"file.create('new{number}')" for number in range(5)] + ["file.revoke('leaked')"]
    running = [subprocess.Popen([sys.executable, "-c", f"{code}; {command}", file]) for command in commands]
    assert [process.wait(60) for process in running] == [0] * len(commands)
    assert sorted(key.name for key in KeyFile(file).read()) == [f"new{number}" for number in range(5)]


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
def test_a_command_on_a_link_waits_for_one_on_the_file(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "links" / "keys.json"
    link.parent.mkdir()
    link.symlink_to(file)
    code = "import sys, pathlib, model.http.keys as keys; keys.KeyFile(pathlib.Path(sys.argv[1])).create('b')"
    with FileLock(file.with_name(".keys.json.lock")):
        command = subprocess.Popen([sys.executable, "-c", code, link])
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(3)
    assert command.wait(60) == 0
    assert [key.name for key in KeyFile(file).read()] == ["b"]
    assert [path.name for path in link.parent.iterdir()] == ["keys.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_who_could_read_the_file_still_can_and_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    file.symlink_to(real)
    KeyFile(real).create("a")
    real.chmod(0o640)
    KeyFile(file).create("b")
    assert file.is_symlink()
    assert [key.name for key in KeyFile(real).read()] == ["a", "b"]
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        KeyFile(tmp_path / "none" / "keys.json").create("a")


# -- who is found ----------------------------------------------------------------------------


def test_all_keys_are_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filed = KeyFile(file)
    tokens = [filed.create(name) for name in ("a", "b", "c")]
    keys = Keys(["given"], file)
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def spy(one: str, other: str) -> bool:
        compared.append((one, other))
        return bool(compare(one, other))

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for token, name in ((tokens[0], "a"), (tokens[2], "c"), ("given", "--api-key 1"), ("none", None)):
        compared.clear()
        found = keys.find(token)
        assert (found and found.name) == name
        assert len(compared) == 4  # whichever it is
        assert {other for _, other in compared} == {sha256(token.encode()).hexdigest()}


def test_a_file_that_breaks_leaves_the_keys_as_they_were(file: Path) -> None:
    token = KeyFile(file).create("a")
    keys = Keys(file=file)
    file.write_text("{", "utf-8")
    with capture_logs() as logs:
        assert keys.find(token) is not None
        assert keys.find("other") is None
    assert [entry["event"] for entry in logs] == ["API keys stay as they were"]


def test_a_file_that_could_not_be_read_for_a_while_is_read_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the very same file: what is wrong need not be in it."""
    token = KeyFile(file).create("leaked")
    keys = Keys(file=file)
    KeyFile(file).revoke("leaked")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", _too_many_files)
        with capture_logs() as logs:
            assert keys.find(token)
            assert keys.find(token)
        assert len(logs) == 1
    assert not keys.find(token)


@pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")
def test_a_file_that_is_out_of_reach_is_told_of_once(tmp_path: Path) -> None:
    """Nothing can be told of it then, not even when it changed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    token = KeyFile(folder / "keys.json").create("a")
    keys = Keys(file=folder / "keys.json")
    folder.rename(tmp_path / "moved")
    folder.write_text("no folder", "utf-8")
    with capture_logs() as logs:
        assert keys.find(token)
        assert keys.find(token)
    assert [entry["event"] for entry in logs] == ["API keys stay as they were"]
    folder.unlink()
    (tmp_path / "moved").rename(folder)
    KeyFile(folder / "keys.json").revoke("a")
    assert not keys.find(token)


def _too_many_files(path: Path) -> bytes:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_given_keys_are_nobody_elses(file: Path) -> None:
    keys = Keys(["one", "two"], file)
    first, second = keys.find("one"), keys.find("two")
    assert first
    assert second
    assert first.name != second.name
    with pytest.raises(ModelError):
        KeyFile(file).create(first.name)


def test_blanks_around_a_given_key_are_none_of_it() -> None:
    assert Keys([" right\n"]).find("right")
    for empty in ("", " "):
        with pytest.raises(ModelError, match="an API key is empty"):
            Keys(["right", empty])


def test_once_there_was_a_key_one_is_needed(file: Path) -> None:
    keys = Keys(file=file)
    assert not keys.required
    filed = KeyFile(file)
    token = filed.create("a")
    assert keys.required
    filed.revoke("a")
    assert keys.required
    assert keys.find(token) is None
    os.unlink(file)
    assert keys.required
    assert Keys(required=True).required


# -- at the door -----------------------------------------------------------------------------

POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/")


async def test_without_the_right_key_nothing_is_answered(serve: Any, talker: Talker) -> None:
    site = await serve(keys=Keys(["right"]))
    for path in (*POSTS, "/v1/models", "/v1/models/fake-glm"):
        body = "{}" if path in POSTS else None
        for key in (None, "wrong", "right "[:4], "ключ"):
            answer = await site.ask(path, body, key=key)
            assert answer[0] == 401
            assert error_of(answer)["code"] == "invalid_api_key"
            assert answer[2]["WWW-Authenticate"] == "Bearer"
        answer = await site.ask(path, body, Authorization="Basic right")
        assert answer[0] == 401
    assert (await site.ask("/v1/models", Authorization="bearer  right"))[0] == 200
    assert (await site.chat("right"))[0] == 200
    assert len(talker.calls) == 1


async def test_keys_come_and_go_while_the_server_runs(serve: Any, file: Path) -> None:
    site = await serve(keys=Keys(file=file))
    assert (await site.chat())[0] == 200
    filed = KeyFile(file)
    first, second = filed.create("first"), filed.create("second")
    assert [(await site.chat(key))[0] for key in (None, first, second)] == [401, 200, 200]
    filed.revoke("first")
    assert [(await site.chat(key))[0] for key in (None, first, second)] == [401, 401, 200]
    filed.revoke("second")
    assert [(await site.chat(key))[0] for key in (None, first, second)] == [401, 401, 401]


async def test_turns_go_by_key_and_end_user_and_without_keys_by_connection(
    serve: Any, talker: Talker, file: Path
) -> None:
    open_site = await serve()
    await open_site.chat(user="lin")
    await open_site.chat()
    token = KeyFile(file).create("shop")
    site = await serve(keys=Keys(file=file))
    await site.chat(token, user="lin")
    await site.chat(token)
    users = [call.user for call in talker.calls]
    assert users[0] == f"{users[1]}:lin"
    assert users[1].startswith("127.0.0.1#")
    assert users[2:] == ["shop:lin", "shop"]


async def test_pages_in_browsers_need_a_key(serve: Any, talker: Talker) -> None:
    site = await serve()
    answer = await site.ask("/", '{"prompt": "hi"}', Origin="http://evil.example")
    assert answer[0] == 403
    assert error_of(answer)["code"] == "key_required"
    assert talker.calls == []
    assert not [name for name in answer[2] if name.startswith("Access-Control")]
    site = await serve(keys=Keys(["right"]))
    assert (await site.ask("/", '{"prompt": "hi"}', key="right", Origin="http://good.example"))[0] == 200
