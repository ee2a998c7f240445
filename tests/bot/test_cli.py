"""The command line: help, errors, other packages' commands, configuration, and the bot itself."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from bot.cli import root

Glmbot = Callable[..., Result]
COMMAND = (sys.executable, "-c", "from bot.cli import main; main()")
HEAVY = ("numpy", "sqlalchemy", "alembic", "aiohttp", "torch", "plugins", "plugins.faq.cli")
COMMANDS = (
    *("run", "chat", "doctor", "config check", "config schema", "plugin list", "plugin new", "plugin test"),
    *("user erase", "db upgrade", "db backup", "faq import", "kb add"),
)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help(glmbot: Glmbot, words: str) -> None:
    result = glmbot(*words.split(), "--help")
    assert result.exit_code == 0
    assert f"glmbot {words}" in result.stdout


def test_the_list_of_commands_shows_what_each_does(glmbot: Glmbot) -> None:
    result = glmbot("--help")
    assert result.exit_code == 0
    for line in ("Remove what is stored about one user.", "Import, export and try out FAQ entries."):
        assert line in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bot.cli import app; sys.argv = ['glmbot', '--help']\n"
        f"try: app()\nexcept SystemExit: print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "knowledge" not in done.stderr
    assert done.stdout.rstrip().endswith("heavy: ['plugins']")  # the folder, for the commands' help texts


def test_the_version(glmbot: Glmbot) -> None:
    assert glmbot("--version").stdout.startswith("glmbot 0.")


def test_an_error_in_the_configuration_is_one_line_and_exit_code_2(glmbot: Glmbot, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server:\n  prot: 1\n", "utf-8")
    result = glmbot("run")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "config.yaml:2: server.prot" in result.stderr
    assert "port" in result.stderr


def test_a_failure_is_one_line_and_exit_code_1(glmbot: Glmbot, tmp_path: Path) -> None:
    (tmp_path / "glmbot.db").write_text("no database at all" * 100, "utf-8")
    result = glmbot("db", "backup", "copy.db")
    assert result.exit_code == 1
    assert result.stderr == "error: the backup failed: file is not a database\n"
    assert not (tmp_path / "copy.db").exists()


def test_a_missing_database_driver_is_a_failure_with_a_remedy(glmbot: Glmbot, tmp_path: Path) -> None:
    if importlib.util.find_spec("asyncpg"):
        pytest.skip("the driver is installed")
    (tmp_path / "config.yaml").write_text("store: {url: 'postgresql+asyncpg://me:secret@db/bot'}\n", "utf-8")
    result = glmbot("run")
    assert result.exit_code == 1
    assert "pip install asyncpg" in result.stderr
    assert "secret" not in result.stderr


def test_an_unforeseen_error_has_no_traceback_unless_asked_for(
    glmbot: Glmbot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("bot.config_schema.config_schema", broken)
    result = glmbot("config", "schema")
    assert result.exit_code == 1
    assert result.stderr == "error: unexpected KeyError: 'surprise'; glmbot --debug shows the traceback\n"
    assert isinstance(glmbot("--debug", "config", "schema").exception, KeyError)
    monkeypatch.setenv("GLMBOT_DEBUG", "1")
    assert isinstance(glmbot("config", "schema").exception, KeyError)


def test_a_broken_command_of_another_package_leaves_the_others_alone(
    glmbot: Glmbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_cli.py").write_text('"""`glmbot broken`: cannot start."""\nimport no_such_module\n')
    (tmp_path / "wrong_cli.py").write_text("app = 3\n", "utf-8")
    points = {
        name: EntryPoint(name, value, root.GROUP)
        for name, value in (
            ("broken", "broken_cli:app"),
            ("wrong", "wrong_cli:app"),
            ("gone", "no_such_package.cli:app"),
            ("faq", "plugins.faq.cli:app"),
        )
    }
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(root, "entry_points", lambda group: points.values())
    listed = glmbot("--help")
    assert listed.exit_code == 0
    assert "Cannot start." in listed.stdout
    assert "no_such_package.cli:app cannot be read" in " ".join(listed.stdout.replace("│", " ").split())
    for name, reason in (("broken", "no_such_module"), ("wrong", "not a typer.Typer"), ("gone", "no_such")):
        result = glmbot(name, "--help")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: the command '{name}' ")
        assert reason in result.stderr
    assert glmbot("faq", "--help").exit_code == 0


def test_an_unknown_command_is_a_usage_error(glmbot: Glmbot) -> None:
    result = glmbot("rnu")
    assert result.exit_code == 2
    assert "run" in result.stderr


# -- config -----------------------------------------------------------------------------------


def test_config_check_shows_what_results_without_secrets(
    glmbot: Glmbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_TOKEN", "123456:abcdefghijklmnopqrstuvwxyz0123456789")
    monkeypatch.setenv("ADMIN", "very-private")
    config = tmp_path / "other.yaml"
    config.write_text(
        "server: {admin_token: '${ENV:ADMIN}'}\n"
        "plugins: {faq: {enabled: false}, knowledge: {folders: []}}\n"
        "contact: 电话 400\n"
        "connectors: [{type: telegram, name: main, token: '${ENV:BOT_TOKEN}'}]\n",
        "utf-8",
    )
    result = glmbot("config", "check", "-c", str(config))
    assert result.exit_code == 0, result.output
    assert "abcdefghijklmnop" not in result.output
    assert "very-private" not in result.output
    shown = yaml.safe_load(result.stdout)
    assert shown["server"]["port"] == 8080
    assert shown["plugins"]["faq"] == {"enabled": False}
    knowledge = shown["plugins"]["knowledge"]
    assert (knowledge["enabled"], knowledge["folders"], knowledge["threshold"]) == (True, [], "auto")
    assert shown["connectors"][0]["name"] == "main"
    assert f"ok: {config}" in result.stderr


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("plugins:\n  faq:\n    file: x\n", "config.yaml:3: plugins.faq.file"),
        ("plugins:\n  fqa: {}\n", "config.yaml:2: plugins.fqa"),
        ("messages:\n  unknwon: hello\n", "config.yaml:2: messages.unknwon"),
        ("server: [\n", "config.yaml:2"),
    ],
)
def test_config_check_names_file_line_and_key(glmbot: Glmbot, tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    result = glmbot("config", "check")
    assert result.exit_code == 2
    assert f"error: {tmp_path / place}" in result.stderr
    assert not result.stdout


def test_config_check_warns_about_a_connector_that_is_off(glmbot: Glmbot, tmp_path: Path) -> None:
    text = "connectors: [{type: telegram, name: main, token: '${ENV:NOT_SET_ANYWHERE}'}]\n"
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    result = glmbot("config", "check")
    assert result.exit_code == 0
    assert "warning: connector 'main' is off" in result.stderr
    assert "NOT_SET_ANYWHERE" in result.stderr


def test_config_schema_is_json(glmbot: Glmbot) -> None:
    schema = json.loads(glmbot("config", "schema").stdout)
    assert "connectors" in schema["properties"]


# -- the bot itself ---------------------------------------------------------------------------


@contextmanager
def running(folder: Path, *words: str, **kwargs: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=folder, stderr=subprocess.PIPE, text=True, encoding="utf-8", **kwargs
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_run_serves_until_sigterm(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "server: {port: 0}\nlog: {format: json}\n"
        "plugins: {faq: {enabled: false}, knowledge: {enabled: false}}\n"
        "connectors: [{type: webchat, name: site}, {type: telegram, name: quiet, token: '${ENV:NOT_SET}'}]\n",
        "utf-8",
    )
    with running(tmp_path, "run") as process:
        assert process.stderr is not None
        events = {}
        while "ready" not in events:
            line = json.loads(process.stderr.readline())
            events[line["event"]] = line
        assert "NOT_SET" in events["configuration"]["problem"]
        with urllib.request.urlopen(f"{events['listening']['url']}readyz", timeout=10) as response:
            assert json.load(response)["ready"] is True
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0, rest
        assert "Traceback" not in rest


def test_run_says_in_one_line_that_the_port_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "config.yaml").write_text(
            f"server:\n  port: {port}\nlog: {{level: error}}\n"
            "plugins: {faq: {enabled: false}, knowledge: {enabled: false}}\n",
            "utf-8",
        )
        with running(tmp_path, "run") as process:
            assert process.stderr is not None
            problem = process.stderr.read()
            assert process.wait(20) == 2
    assert problem.startswith(f"error: {tmp_path / 'config.yaml'}:2: server.port: port {port} is in use")
    assert problem.count("\n") == 1


def test_chat_answers_piped_questions_in_order(tmp_path: Path) -> None:
    (tmp_path / "faq.yaml").write_text(
        "- {question: 运费是多少？, answer: 满 99 元包邮。}\n"
        "- {question: When do you open?, answer: At nine.}\n",
        "utf-8",
    )
    (tmp_path / "config.yaml").write_text(
        "server: {port: 1}\nplugins: {knowledge: {enabled: false}}\n", "utf-8"
    )
    asked = "运费是多少？\nWhen do you open?\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with running(tmp_path, "chat", **pipes, env=environ) as process:
        answers, problems = process.communicate(asked, timeout=60)
        assert process.returncode == 0, problems
    assert answers == "满 99 元包邮。\nAt nine.\n"


# -- plugins ----------------------------------------------------------------------------------


def test_plugin_list_shows_what_is_on_and_why_the_rest_is_off(glmbot: Glmbot, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "broken.py").write_text("import no_such_module\n", "utf-8")
    (folder / "late.py").write_text(
        "from bot import Plugin\nplugin = Plugin('late')\n"
        "@plugin.startup\ndef start():\n    raise OSError('no licence')\n",
        "utf-8",
    )
    (folder / "clock.py").write_text(
        "from bot import Plugin\nplugin = Plugin('clock')\n"
        "@plugin.command('now', '几点')\ndef now() -> str:\n    return 'late'\n"
        "@plugin.schedule('0 9 * * *')\ndef wake(): ...\n",
        "utf-8",
    )
    (folder / "test_clock.py").write_text("from clock import plugin\n", "utf-8")
    config = "plugin_folders: [mine]\nplugins: {faq: {enabled: false}, knowledge: {enabled: false}}\n"
    (tmp_path / "config.yaml").write_text(config, "utf-8")
    result = glmbot("plugin", "list")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "ok" in lines["clock"]
    assert "mine/clock.py" in lines["clock"]
    assert "/now|几点" in lines["clock"]
    assert "0 9 * * *" in lines["clock"]
    assert "off: ModuleNotFoundError" in lines["broken"]
    assert "off: startup failed: OSError: no licence" in lines["late"]
    assert "off: enabled is false" in lines["faq"]
    assert "built-in" in lines["help"]
    assert "test_clock" not in lines


def test_plugin_test_passes_on_what_plugin_new_wrote(glmbot: Glmbot, tmp_path: Path) -> None:
    written = glmbot("plugin", "new", "shop-hours")
    assert written.exit_code == 0, written.output
    assert "plugin_folders: [plugins_local]" in written.stdout
    assert "glmbot plugin test plugins_local" in written.stdout
    done = subprocess.run(
        [*COMMAND, "plugin", "test"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_plugin_test_exits_like_pytest_and_hands_its_options_on(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("", "utf-8")
    (tmp_path / "test_shop.py").write_text(
        "def test_right(): pass\ndef test_wrong(): assert False\n", "utf-8"
    )
    command = [*COMMAND, "plugin", "test", "shop.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    none = subprocess.run([*command, "-k", "nothing"], cwd=tmp_path, capture_output=True, text=True)
    assert none.returncode == 1
    assert "error: no tests" in none.stderr


def test_plugin_test_says_what_is_missing(glmbot: Glmbot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file or folder" in glmbot("plugin", "test", "nowhere").stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = glmbot("plugin", "test")
    assert result.exit_code == 1
    assert "pip install 'glmbot[test]'" in result.stderr
