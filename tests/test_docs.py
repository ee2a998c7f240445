"""What the READMEs and docs/ show is true: snippets run, settings validate, commands and files exist."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from bot.app import App
from bot.cli import app
from bot.config import Config, LoadedConfig, load_config, validate_plugin_config
from bot.config_connectors import ConnectorSettings, WecomSettings
from bot.connectors.wecom.aibot import URL_PATIENCE
from bot.connectors.wecom.api import SEND_TIMEOUT
from bot.connectors.wecom.callback import MAX_BODY
from bot.connectors.wecom.client import REFUSED_PATIENCE
from bot.connectors.wecom.errcodes import EXPLANATIONS
from bot.errors import MAY_HAVE_ARRIVED
from bot.loader import load_plugins
from bot.metrics import HeldReason, LostReason, Metrics
from model.kernels.cubin_cache import VARIABLE
from plugins.faq.files import read_file
from plugins.faq.plugin import Config as FaqConfig
from plugins.handoff.plugin import Config as HandoffConfig
from plugins.knowledge.plugin import Config as KnowledgeConfig
from plugins.moderation.plugin import Config as ModerationConfig

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
ENVIRONMENT = {
    "TELEGRAM_TOKEN": "123456789:" + "A" * 35,
    "TELEGRAM_SECRET": "telegram-secret",
    "SHOP_WEBHOOK_SECRET": SECRET,
    "SHOP_WEBHOOK_SECRET_OLD": SECRET,
    "GLMBOT_ADMIN_TOKEN": "admin-token",
    **{f"WECOM_{name}": "wecom-secret" for name in ("SECRET", "TOKEN", "BOT_TOKEN", "KF_SECRET", "KF_TOKEN")},
    **{f"WECOM_{name}": "k" * 43 for name in ("AES_KEY", "BOT_AES_KEY", "KF_AES_KEY", "ROBOT_KEY")},
}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, or all."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages or not languages]


def write_examples(page: Path, folder: Path) -> list[str]:
    """Write the blocks that begin with `# NAME` as files; returns the names."""
    names = []
    for text in blocks(page, "python", "bash"):
        named = re.match(r"# ([\w.]+)\n", text)
        assert named, f"{page.name}: an example begins with its file name:\n{text}"
        (folder / named[1]).write_text(text, encoding="utf-8")
        names.append(named[1])
    return names


YAML = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"))
]


@pytest.fixture
def surroundings(tmp_path: Path) -> Path:
    """A folder with the files that snippets name."""
    (tmp_path / "faq.yaml").write_text("[{question: 在吗, answer: 在的}]", encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "my-plugins").mkdir()
    return tmp_path


@pytest.mark.parametrize("text", YAML)
def test_settings_and_faq_snippets_are_valid(text: str, surroundings: Path) -> None:
    if isinstance(yaml.safe_load(text), list):
        file = surroundings / "snippet.yaml"
        file.write_text(text, encoding="utf-8")
        assert read_file(file)
        return
    loaded = configure(surroundings, text)
    assert loaded.warnings == ()
    validate_plugin_config(FaqConfig, loaded, "faq")
    validate_plugin_config(KnowledgeConfig, loaded, "knowledge")
    validate_plugin_config(HandoffConfig, loaded, "handoff")
    validate_plugin_config(ModerationConfig, loaded, "moderation")


def configure(folder: Path, text: str, environ: dict[str, str] | None = None) -> LoadedConfig:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, ENVIRONMENT if environ is None else environ)


@pytest.mark.parametrize("page", [READMES[0], ROOT / "docs" / "plugins.md"], ids=lambda page: page.name)
def test_plugin_examples_pass_their_tests(page: Path, tmp_path: Path) -> None:
    names = write_examples(page, tmp_path)
    tests = [name for name in names if name.startswith("test_")]
    assert tests
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir=.", *tests],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_plugin_examples_load_from_a_folder(surroundings: Path) -> None:
    page = ROOT / "docs" / "plugins.md"
    names = write_examples(page, surroundings / "my-plugins")
    for name in names:
        if name.startswith("test_"):
            (surroundings / "my-plugins" / name).unlink()
    plugins = load_plugins(configure(surroundings, blocks(page, "yaml")[0]))
    assert plugins.failures == []
    loaded = {item.plugin.name: item for item in plugins.loaded}
    assert {name.removesuffix(".py") for name in names if not name.startswith("test_")} <= set(loaded)
    assert loaded["shop"].config.model_dump()["city"] == "Suzhou"


# -- the signed webhook ---------------------------------------------------------------------


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a bot with the sample FAQ and the README's webhook."""
    snippet = next(text for text in blocks(READMES[0], "yaml") if "type: webhook" in text)
    sample = ROOT / "plugins" / "faq" / "sample"
    files = ", ".join(str(sample / name) for name in ("faq.zh.yaml", "faq.en.yaml"))
    text = f"server: {{port: 0}}\nplugins: {{faq: {{files: [{files}]}}, knowledge: {{enabled: false}}}}\n"
    bot = App(configure(tmp_path, text + snippet))
    await bot.start()
    assert bot.server is not None
    yield f"http://127.0.0.1:{bot.server.port}"
    await bot.stop()


@pytest.mark.parametrize(
    ("name", "interpreter", "answer"),
    [
        ("ask.sh", ["bash", "-e"], "满 99 元包邮"),
        ("ask.py", [sys.executable], "Shipping is free for orders of ¥99 or more"),
    ],
)
async def test_webhook_examples_are_answered(
    name: str, interpreter: list[str], answer: str, served: str, tmp_path: Path
) -> None:
    for tool in (interpreter[0], *(["openssl", "curl", "base64", "od"] if name == "ask.sh" else [])):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    write_examples(READMES[0], tmp_path)
    script = tmp_path / name
    script.write_text(script.read_text(encoding="utf-8").replace("http://127.0.0.1:8080", served), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *interpreter,
        str(script),
        env=os.environ | {"SHOP_WEBHOOK_SECRET": SECRET, "PYTHONIOENCODING": "utf-8"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert answer in out.decode()


# -- the model -------------------------------------------------------------------------------


def test_vectors_are_compared_as_shown(tmp_path: Path) -> None:
    [name] = write_examples(ROOT / "docs" / "model.md", tmp_path)
    done = subprocess.run(
        [sys.executable, str(tmp_path / name)],
        cwd=ROOT / "tests" / "data" / "chatglm",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# -- the READMEs ----------------------------------------------------------------------------


def test_readmes_show_the_same() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert blocks(READMES[0]) == blocks(READMES[1])
    for pattern in (
        r"^(#+) ",
        r"^\| (`[^`]+`) \|",
        r"^\| `glmbot ([^`]+)`",
        r"\]\((docs/[^)]*)\)",
        r"^- \*\*",
    ):
        assert re.findall(pattern, english, re.M) == re.findall(pattern, chinese, re.M), pattern


def test_settings_table_tells_the_defaults() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)` \|", READMES[0].read_text(encoding="utf-8"), re.M)
    assert len(rows) > 10
    for key, default in rows:
        value: Any = Config()
        for part in key.split("."):
            value = getattr(value, part)
        written = yaml.safe_load(default)
        if key == "store.url":
            assert value.endswith(written.rpartition("/")[2])
        else:
            assert (list(value) if isinstance(value, tuple) else value) == written, key


def test_start_needs_make_run_and_make_test_only() -> None:
    for page in READMES:
        commands = [line for text in blocks(page, "sh") for line in text.splitlines()]
        assert commands == ["make run", "make test"]


# -- the guide to WeCom ---------------------------------------------------------------------

WECOM = ROOT / "docs" / "wecom.md"


def rows_below(heading: str) -> list[list[str]]:
    """The cells of a table in the guide, by the first cell of its heading."""
    text = WECOM.read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    assert found, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


@pytest.mark.parametrize("settings", get_args(WecomSettings), ids=lambda settings: settings.__name__)
def test_wecom_guide_tells_every_key_and_its_default(settings: type[ConnectorSettings]) -> None:
    kind = settings.model_fields["type"].default
    told = {key.strip("`"): default for key, default, *_ in rows_below(f"{kind} 的键")}
    fields = {key: field for key, field in settings.model_fields.items() if key not in ("type", "groups")}
    assert set(told) == set(fields)
    for key, field in fields.items():
        if field.is_required():
            assert told[key] == "必填", key
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert yaml.safe_load(told[key].strip("`")) == default, key


def test_wecom_guide_explains_codes_that_the_bot_knows() -> None:
    codes = {int(code) for cells in rows_below("错误码") for code in cells[0].split("、")}
    assert len(codes) > 10
    assert codes <= set(EXPLANATIONS)


@pytest.mark.parametrize(
    ("heading", "reasons"), [("等待的限制", HeldReason), ("送不到的消息", LostReason)], ids=["held", "lost"]
)
def test_wecom_guide_tells_every_reason_that_is_counted(heading: str, reasons: Any) -> None:
    told = {reason.strip("`") for cells in rows_below(heading) for reason in cells[-1].split("、")}
    assert told == set(get_args(reasons))


def test_wecom_guide_tells_how_long_is_tried() -> None:
    text = WECOM.read_text(encoding="utf-8")
    for seconds in (SEND_TIMEOUT, MAY_HAVE_ARRIVED, REFUSED_PATIENCE, URL_PATIENCE):
        assert f"{seconds:g} 秒" in text
    assert f"{MAX_BODY >> 10} KB" in text


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for page in PAGES:
        for named in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M):
            assert "".join(named) in targets, f"{page.name}: make {''.join(named)}"


def test_files_named_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:bot|plugins|model|tests|deploy|docs)/[\w./-]*\w)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_metrics_named_exist() -> None:
    body, _ = Metrics().exposition()
    known = {line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE ")}
    for page in PAGES:
        for name in re.findall(r"`(glmbot_[a-z_]+)`", page.read_text(encoding="utf-8")):
            assert name in known, f"{page.name}: {name}"


def commands_named() -> list[str]:
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found.update(re.findall(r"(?:`|^)glmbot ([a-z]+(?: [a-z][a-z-]*)?)", text, re.M))
    return sorted(found)


@pytest.mark.parametrize("named", commands_named())
def test_commands_exist(named: str) -> None:
    result = CliRunner().invoke(app, [*named.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


# -- deploy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{}, ENVIRONMENT], ids=["bare", "secrets"])
def test_deployed_settings_are_valid(environ: dict[str, str], tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "config.yaml").read_text(encoding="utf-8")
    loaded = configure(tmp_path, text.replace("/var/lib/glmbot", str(tmp_path)), environ)
    assert loaded.config.server.host == "127.0.0.1"
    names = [connector.name for connector in loaded.config.connectors]
    assert names == (["site", "main", "shop"] if environ else ["site"])
    assert len(loaded.warnings) == (0 if environ else 2)


def test_image_is_built_from_files_that_exist() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    sources = [source for line in copies for source in line.split()]
    assert {"setup.py", "bot", "plugins", "model", "cuda"} <= set(sources)  # setup.py builds of all of them
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in allowed), source


def test_what_is_deployed_keeps_compiled_kernels_where_it_may_write() -> None:
    """Nowhere else: it has no home folder, and every start would compile them."""
    for file in ("Dockerfile", "deploy/glmbot.service"):
        assert f"{VARIABLE}=/var/lib/glmbot/" in (ROOT / file).read_text(encoding="utf-8"), file
