"""`glmbot model serve` and `glmbot model key`, with the tiny model in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from bot.cli import app

Glmbot = Callable[..., Result]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def glmbot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Glmbot]:
    """Runs `glmbot model ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLMBOT_DEBUG", raising=False)

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, ["model", *map(str, words)])

    yield call
    structlog.reset_defaults()


def test_keys_are_printed_once_listed_without_themselves_and_revoked(glmbot: Glmbot) -> None:
    made = glmbot("key", "new", "shop", "--requests", 60, "--tokens", 9000)
    assert made.exit_code == 0
    token = made.stdout.strip()
    assert re.fullmatch(r"sk-[\w-]{43}", token)
    assert glmbot("key", "new", "b").exit_code == 0
    listed = glmbot("key", "list").stdout
    assert re.fullmatch(
        r"shop  \d{4}-\d\d-\d\d  60 requests a minute, 9000 tokens a minute\n"
        r"b     \d{4}-\d\d-\d\d  no limit\n",
        listed,
    )
    assert token not in listed
    assert glmbot("key", "revoke", "shop").exit_code == 0
    assert "shop" not in glmbot("key", "list").stdout
    again = glmbot("key", "revoke", "shop")
    assert again.exit_code == 1
    assert again.stderr == "error: model-keys.json: there is no key 'shop'; known are: b\n"


def test_elsewhere_serving_needs_a_key_before_anything_is_loaded(glmbot: Glmbot) -> None:
    refused = glmbot("serve", "nowhere", "--host", "0.0.0.0")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: on 0.0.0.0 anybody could use the model; create a key first")
    assert "nowhere: there is no such file" in glmbot("serve", "nowhere", "--api-key", "k").stderr
    glmbot("key", "new", "shop")
    assert "nowhere: there is no such file" in glmbot("serve", "nowhere", "--host", "0.0.0.0").stderr
    assert "chatglm-6b: there is no such file" in glmbot("serve").stderr
    assert "has no name; write NAME=PATH" in glmbot("serve", "nowhere", "--prefix", "p.bin").stderr


@pytest.mark.parametrize("empty", ["", " "])
def test_what_is_empty_is_no_key_and_no_name(
    glmbot: Glmbot, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    told = (
        "error: an API key is empty;"
        " give one, or leave --api-key, GLMBOT_API_KEY or the entry in model.api.keys out\n"
    )
    assert glmbot("serve", "nowhere", "--api-key", empty).stderr == told
    assert glmbot("serve", "nowhere", "--api-key", "k", "--api-key", empty).stderr == told
    named = glmbot("serve", "nowhere", "--name", empty)
    assert named.stderr == "error: --name is empty; leave it out for the model's own name\n"
    monkeypatch.setenv("GLMBOT_API_KEY", empty)
    assert glmbot("serve", "nowhere").stderr == told
    assert "nowhere: there is no such file" in glmbot("serve", "nowhere", "--api-key", "k").stderr


def test_a_file_of_keys_that_is_named_must_be_there(glmbot: Glmbot) -> None:
    for command in (("serve", "nowhere"), ("key", "list")):
        done = glmbot(*command, "--keys", "shop.json")
        assert done.exit_code == 1
        assert done.stderr == (
            "error: shop.json: there is no such file of API keys;"
            " check the path, or create a key first: glmbot model key new NAME --keys shop.json\n"
        )
    assert glmbot("key", "list").exit_code == 0
    assert glmbot("key", "new", "a", "--keys", "shop.json").exit_code == 0
    assert "nowhere: there is no such file" in glmbot("serve", "nowhere", "--keys", "shop.json").stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_tiny_model_answers_over_http(glmbot: Glmbot, tmp_path: Path) -> None:
    assert glmbot("make-random", "tiny", "--seed", 3).exit_code == 0
    program = "from bot.cli import main; main()"
    words = ("model", "serve", str(tmp_path / "tiny"), "--port", "0", "--name", "glm", "--max-context", "256")
    assert glmbot("key", "new", "shop", "--keys", "keys.json").exit_code == 0
    keys = ("--api-key", "secret", "--keys", str(tmp_path / "keys.json"))
    with subprocess.Popen(
        [sys.executable, "-c", program, *words, *keys], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        told = ""
        while "listening" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        found = re.search(r"http://127\.0\.0\.1:\d+", told)
        assert found, told
        body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 8, "seed": 1, "n": 2}
        answers = [ask(f"{found[0]}/v1/chat/completions", {"model": "glm", **body}) for _ in range(2)]
        assert answers[0]["choices"] == answers[1]["choices"]
        assert answers[0]["usage"]["total_tokens"] > 0
        glm = ask(f"{found[0]}/", {"prompt": "你好", "max_length": 20, "temperature": 0.01})
        assert glm["history"] == [["你好", glm["response"]]]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0, rest
    assert "Traceback" not in told + rest


def ask(url: str, body: dict[str, object]) -> dict[str, Any]:
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        found: dict[str, Any] = json.load(response)
        return found
