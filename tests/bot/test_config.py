"""config.yaml: the contract's keys and start rules, and one clear error for each way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bot.config import LoadedConfig, load_config, validate_plugin_config
from bot.config_connectors import TelegramSettings, WebhookSettings
from bot.config_schema import config_schema
from bot.config_values import ConfigPath, Rate
from bot.errors import ConfigError

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str | bytes, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


@pytest.fixture
def load(write: Any) -> Any:
    def load_text(text: str | bytes, **environ: str) -> LoadedConfig:
        return load_config(write(text), environ)

    return load_text


@pytest.fixture
def refuse(load: Any) -> Any:
    def refused(text: str | bytes, **environ: str) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        error = caught.value
        assert error.file is not None
        assert error.file.name == "config.yaml"
        assert error.remedy
        return error

    return refused


# --- the contract's keys ---


def test_every_key_of_the_contract_is_read(load: Any, tmp_path: Path) -> None:
    for folder in ("docs", "mine", "prefix"):
        (tmp_path / folder).mkdir()
    config = load(
        f"""
server: {{host: 0.0.0.0, port: 9000, admin_token: "${{ENV:ADMIN}}", max_body: 2097152}}
store: {{url: "sqlite+aiosqlite:///bot.db", retention_days: 30, synchronous: full}}
history: {{budget: 100, rounds: 5}}
model: {{backend: local, path: null, device: cpu, quantization: int8, kv_cache: int4, max_context: 1024,
         max_new_tokens: 128, max_running: 8, max_per_user: 1, memory: 12GB, prefixes: {{shop: prefix}}}}
plugins: {{faq: {{enabled: false}}, knowledge: {{folders: [docs], threshold: auto}}, help:}}
plugin_folders: [mine]
groups: {{respond: faq, wake_words: [小助手], session: topic}}
roles: {{admins: ["site:u1"], agents: ["tg:42"]}}
staff_chats: ["tg:-100"]
limits: {{per_user: 20/minute, per_group: null}}
dispatch: {{workers: 8, queue: 100, deadline: 10}}
retrieval: {{encoder: fuse, cache: cache}}
language: zh
timezone: Asia/Shanghai
contact: 电话 400-000
messages: {{unknown: {{en: No idea}}}}
log: {{level: debug, format: json}}
connectors:
  - {{type: webchat, name: site}}
  - {{type: console, name: terminal}}
  - {{type: telegram, name: tg, token: "1:a", mode: webhook, public_url: "https://x.test/telegram/tg",
      secret: s_-1}}
  - {{type: webhook, name: shop, secret: {WHSEC}, reply_url: "http://10.0.0.7/in", wait: 5,
      groups: {{respond: all}}}}
""",
        ADMIN="t0p",
    ).config
    assert config.server.admin_token.get_secret_value() == "t0p"
    assert config.store.url == f"sqlite+aiosqlite:///{tmp_path}/bot.db"
    assert config.model.prefixes == {"shop": tmp_path / "prefix"}
    assert config.model.memory == 12_000_000_000
    assert config.plugin_folders == (tmp_path / "mine",)
    assert not config.plugin("faq").enabled
    assert config.plugin("knowledge").settings == {"folders": ["docs"], "threshold": "auto"}
    assert config.plugin("help").enabled
    assert config.plugin("never-named").enabled
    assert config.limits.per_user == Rate(20, 60)
    assert config.limits.per_group is None
    assert config.retrieval.cache == tmp_path / "cache"
    assert config.contact == {"zh": "电话 400-000", "en": "电话 400-000"}
    assert config.messages == {"unknown": {"en": "No idea"}}
    telegram, shop = config.connectors[2:]
    assert (telegram.api_base, telegram.streaming, telegram.feedback) == (
        "https://api.telegram.org",
        True,
        True,
    )
    assert [secret.get_secret_value() for secret in shop.secret] == [WHSEC]
    assert config.groups_for(telegram) == config.groups
    assert config.groups_for(shop) == config.groups.model_copy(update={"respond": "all"})


def test_without_a_file_there_are_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config()
    assert loaded.file is None
    assert [(item.type, item.name) for item in loaded.config.connectors] == [("webchat", "site")]
    assert loaded.config.store.url == f"sqlite+aiosqlite:///{tmp_path}/glmbot.db"
    assert (loaded.config.server.host, loaded.config.server.port) == ("127.0.0.1", 8080)


def test_the_file_of_the_working_folder_is_found(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    path = write("server: {port: 81}")
    monkeypatch.chdir(path.parent)
    loaded = load_config()
    assert (loaded.config.server.port, loaded.file) == (81, path)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "plugins:\nconnectors:\ncontact: null\nstore:\n"])
def test_emptied_sections_have_their_defaults(load: Any, text: str) -> None:
    assert [item.name for item in load(text).config.connectors] == ["site"]


def test_numbers_and_switches_come_from_variables_too(load: Any) -> None:
    text = 'server: {port: "${ENV:PORT}"}\nplugins: {faq: {enabled: "${ENV:FAQ:-false}"}}'
    config = load(text, PORT="8081").config
    assert config.server.port == 8081
    assert not config.plugin("faq").enabled


def test_the_default_file_loads_without_a_warning() -> None:
    loaded = load_config(ROOT / "config.yaml", {})
    assert loaded.warnings == ()
    assert [item.type for item in loaded.config.connectors] == ["webchat"]


def test_the_default_file_shows_every_key() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    schema = config_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})}
    assert {key for key in keys if f"{key}:" not in text} == set()


# --- references ---


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("${ENV:A}", {"A": "x"}, "x"),
        ("a ${ENV:A} ${ENV:B:-b}", {"A": "x"}, "a x b"),
        ("${ENV:A:-d}", {"A": ""}, "d"),
        ("${ENV:A:-http://x:80}", {}, "http://x:80"),
        ("${ENV:A}", {"A": "${ENV:B}"}, "${ENV:B}"),
        ("$${ENV:A}", {}, "${ENV:A}"),
        ("costs $5 {a}", {}, "costs $5 {a}"),
        ("${FILE:note}", {}, "two\nlines"),
    ],
)
def test_references_are_filled(
    load: Any, write: Any, text: str, environ: dict[str, str], expected: str
) -> None:
    write("two\nlines\n", "note")
    loaded = load(json.dumps({"contact": text}), **environ)
    assert loaded.config.contact == {"zh": expected, "en": expected}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${TELEGRAM_TOKEN}", "${ENV:NAME}"),
        ("${env:A}", "${ENV:NAME}"),
        ("${ENV:}", "${ENV:NAME}"),
        ("${ENV:A", "not closed"),
        ("${FILE:absent}", "cannot be read"),
    ],
)
def test_a_broken_reference_is_explained(refuse: Any, text: str, says: str) -> None:
    error = refuse(f"server:\n  host: '{text}'\n")
    assert (error.line, error.key) == (2, "server.host")
    assert says in str(error)


@pytest.mark.parametrize("key", ["host", "port", "admin_token"])
def test_an_unset_variable_outside_connectors_is_an_error(refuse: Any, key: str) -> None:
    error = refuse(f'server:\n  {key}: "${{ENV:NOT_SET}}"\n')
    assert (error.line, error.key) == (2, f"server.{key}")
    assert "NOT_SET" in error.problem


def test_an_unset_variable_in_an_ordinary_connector_key_is_an_error(refuse: Any) -> None:
    error = refuse('connectors:\n- {type: telegram, name: a, token: "1:a", api_base: "${ENV:BASE}"}')
    assert error.key == "connectors[0].api_base"


@pytest.mark.parametrize(
    "item",
    [
        '{type: telegram, name: gone, token: "${ENV:GONE}"}',
        '{type: webhook, name: gone, secret: "${ENV:GONE}"}',
        f'{{type: webhook, name: gone, secret: ["{WHSEC}", "${{ENV:GONE}}"]}}',
        '{type: telegram, name: gone, token: "1:a", mode: webhook, public_url: "https://x/", '
        'secret: "${ENV:GONE}"}',
    ],
)
def test_an_unset_secret_switches_its_connector_off(load: Any, item: str) -> None:
    loaded = load(f"connectors:\n- {item}\n- {{type: webchat, name: site}}\n")
    assert [connector.name for connector in loaded.config.connectors] == ["site"]
    assert len(loaded.warnings) == 1
    assert "GONE" in loaded.warnings[0]
    assert "'gone' is off" in loaded.warnings[0]


def test_a_switched_off_connector_is_still_checked(refuse: Any) -> None:
    error = refuse('connectors:\n- {type: telegram, name: a, token: "${ENV:GONE}", strming: true}')
    assert "'streaming'" in error.remedy


@pytest.mark.parametrize(
    "value", ["''", "null", "'  '", "'${ENV:EMPTY}'", "'${ENV:GONE:-}'", "'${FILE:empty}'"]
)
@pytest.mark.parametrize("kind", ["telegram, token", "webhook, secret"])
def test_an_empty_secret_is_an_error(refuse: Any, write: Any, kind: str, value: str) -> None:
    write("\n", "empty")
    type_, key = kind.split(", ")
    error = refuse(f"connectors:\n- type: {type_}\n  name: a\n  {key}: {value}\n", EMPTY="")
    assert error.line == 4
    assert "must not be empty" in error.problem


def test_a_null_secret_is_an_error_where_it_could_be_left_out(refuse: Any) -> None:
    error = refuse("connectors:\n- {type: telegram, name: a, token: '1:a', secret: null}")
    assert error.key == "connectors[0].secret"


def test_secrets_never_show(load: Any) -> None:
    text = f"""
server: {{admin_token: hunter22}}
store: {{url: "postgresql+asyncpg://bot:hunter22@db/bot"}}
connectors:
- {{type: telegram, name: a, token: "1:hunter22"}}
- {{type: webhook, name: b, secret: {WHSEC}}}
"""
    config = load(text).config
    for shown in (repr(config), str(config), config.model_dump_json(exclude={"store": {"url"}})):
        assert "hunter22" not in shown
        assert WHSEC not in shown


def test_a_refused_secret_is_not_repeated(refuse: Any) -> None:
    text = "connectors:\n- {type: webhook, name: a, secret: whsec_tooshort}\n"
    assert "tooshort" not in str(refuse(text))


# --- mistakes ---


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ("serber: {}", 1, "serber", "server"),
        ("server:\n  host: a\n  prot: 1\n", 3, "server.prot", "port"),
        ("model:\n  Quantisation: int4\n", 2, "model.Quantisation", "quantization"),
        (
            "connectors:\n- type: telegram\n  name: a\n  tokn: b\n  token: '1:a'\n",
            4,
            "connectors[0].tokn",
            "token",
        ),
        ("connectors:\n- {type: webchat, name: a, groups: {wakewords: []}}", 2, None, "wake_words"),
        ("zzz: 1", 1, "zzz", "plugin_folders"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    refuse: Any, text: str, line: int, key: str | None, near: str
) -> None:
    error = refuse(text)
    assert error.line == line
    assert key in (None, error.key)
    assert near in error.remedy


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("server: {port: high}", "server.port", "whole number"),
        ("server: {port: 70000}", "server.port", "65535"),
        ("server: {port: true}", "server.port", "number"),
        ("server: []", "server", "keys and values"),
        ("history: {rounds: 0}", "history.rounds", "greater"),
        ("groups: {wake_words: [on]}", "groups.wake_words[0]", "quotes"),
        ("groups: {wake_words: hi}", "groups.wake_words", "list"),
        ("groups: {session: users}", "groups.session", "'user'"),
        ("model: {backend: ray}", "model.backend", "later release"),
        ("model: {backend: vllm}", "model.backend", "openai"),
        ("model: {backend: openai, name: glm}", "model", "base_url"),
        ("model: {backend: openai, base_url: 'ftp://x', name: glm}", "model.base_url", "http"),
        ("model: {max_new_tokens: 2048}", "model", "max_context"),
        ("model: {path: weights}", "model.path", "does not exist"),
        ("model: {memory: much}", "model.memory", "write it as 12GB"),
        ("model: {prefixes: {shop: gone}}", "model.prefixes.shop", "does not exist"),
        ("plugin_folders: [gone]", "plugin_folders[0]", "does not exist"),
        ("plugins: {faq: {enabled: maybe}}", "plugins.faq.enabled", "true or false"),
        ("plugins: {faq: on}", "plugins.faq", "keys and values"),
        ("store: {url: 'sqlite:///a.db'}", "store.url", "sqlite+aiosqlite"),
        ("store: {url: a.db}", "store.url", "sqlite+aiosqlite"),
        ("store: {url: 'sqlite+aiosqlite:///gone/a.db'}", "store.url", "does not exist"),
        ("limits: {per_user: often}", "limits.per_user", "20/minute"),
        ("limits: {per_user: 20}", "limits.per_user", "20/minute"),
        ("roles: {admins: [root]}", "roles.admins[0]", "such as telegram-main:12345"),
        ("timezone: Mars/Olympus", "timezone", "Asia/Shanghai"),
        ("dispatch: {deadline: .inf}", "dispatch.deadline", "finite"),
        ("messages: {hello: {fr: salut}}", "messages.hello.fr", "'zh' or 'en'"),
        ("connectors: {type: webchat, name: a}", "connectors", "list"),
        ("connectors: [webchat]", "connectors[0]", ""),
        ("connectors: [{name: a}]", "connectors[0]", "type"),
        ("connectors: [{type: webchat}]", "connectors[0].name", "missing"),
        ("connectors: [{type: telegramm, name: a}]", "connectors[0]", "'telegram'"),
        ("connectors: [{type: wecom-app, name: a, corp_id: ww}]", "connectors[0].agent_id", "missing"),
        ("connectors: [{type: webchat, name: Site}]", "connectors[0].name", "a-z"),
        ("connectors: [{type: telegram, name: a}]", "connectors[0].token", "missing"),
        ("connectors: [{type: telegram, name: a, token: 'a b'}]", "connectors[0].token", "BotFather"),
        ("connectors: [{type: telegram, name: a, token: 12}]", "connectors[0].token", "quotes"),
    ],
)
def test_a_wrong_value_names_its_key_and_the_remedy(refuse: Any, text: str, key: str, says: str) -> None:
    error = refuse("# one line above\n" + text)
    assert (error.line, error.key) == (2, key)
    assert says in str(error)


@pytest.mark.parametrize(
    ("extra", "key", "says"),
    [
        ("api_base: 'http://api.test'", "api_base", "loopback"),
        ("api_base: 'https://api.test?x=1'", "api_base", "base URL"),
        ("api_base: 'https://'", "api_base", "http(s) URL"),
        ("api_base: 'https://host:port'", "api_base", "http(s) URL"),
        ("mode: webhook, public_url: 'http://shop.test/t', secret: s", "public_url", "loopback"),
        ("mode: webhook, public_url: 'https://shop.test/t', secret: 's s'", "secret", "1 to 256"),
        (f"mode: webhook, public_url: 'https://shop.test/t', secret: '{'s' * 257}'", "secret", "1 to 256"),
        ("mode: webhook, public_url: 'https://shop.test/t'", None, "needs secret"),
        ("mode: webhook, secret: s", None, "needs public_url"),
    ],
)
def test_telegram_settings_that_cannot_work(refuse: Any, extra: str, key: str | None, says: str) -> None:
    error = refuse(f"connectors: [{{type: telegram, name: a, token: '1:a', {extra}}}]")
    assert error.key == "connectors[0]" + (f".{key}" if key else "")
    assert says in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1:9930", "localhost:1", "[::1]:9930", "127.8.8.8"])
def test_plain_http_is_accepted_on_loopback(load: Any, host: str) -> None:
    text = (
        f"connectors: [{{type: telegram, name: a, token: '1:a', api_base: 'http://{host}/', mode: webhook, "
    )
    text += f"public_url: 'http://{host}/telegram/a', secret: s}}]"
    (telegram,) = load(text).config.connectors
    assert isinstance(telegram, TelegramSettings)
    assert telegram.api_base == f"http://{host}"


@pytest.mark.parametrize(
    "secret",
    ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "whsec_" + "A" * 90],
)
def test_a_webhook_secret_has_the_standards_form(refuse: Any, secret: str) -> None:
    assert (
        refuse(f"connectors: [{{type: webhook, name: a, secret: '{secret}'}}]").key == "connectors[0].secret"
    )


def test_webhook_secrets_may_be_rotated_and_unpadded(load: Any) -> None:
    other = "whsec_" + "QUJD" * 8 + "QQ"
    (shop,) = load(f"connectors: [{{type: webhook, name: a, secret: [{other}, {WHSEC}]}}]").config.connectors
    assert isinstance(shop, WebhookSettings)
    assert [secret.get_secret_value() for secret in shop.secret] == [other, WHSEC]


@pytest.mark.parametrize(
    ("second", "key"),
    [
        ("{type: webchat, name: a}", "name"),
        ("{type: telegram, name: b, token: '1:a'}", "token"),
    ],
)
def test_connectors_do_not_share_names_or_bots(refuse: Any, second: str, key: str) -> None:
    error = refuse(f"connectors:\n- {{type: telegram, name: a, token: '1:a'}}\n- {second}\n")
    assert (error.line, error.key) == (3, f"connectors[1].{key}")


def test_there_is_one_web_chat_page(refuse: Any) -> None:
    error = refuse("connectors:\n- {type: webchat, name: a}\n- {type: webchat, name: b}\n")
    assert error.line == 3


def test_an_identity_of_no_connector_is_a_warning(load: Any) -> None:
    (warning,) = load("roles: {agents: ['sit:u1', 'site:u2']}").warnings
    assert "roles.agents[0]" in warning
    assert "'site'" in warning


def test_a_staff_chat_that_can_only_answer_is_a_warning(load: Any) -> None:
    hook = "{type: webhook, name: %s, secret: " + WHSEC + "%s}\n"
    robot = f"{{type: wecom-aibot, name: ai, token: t, aes_key: {'a' * 43}}}\n"
    connectors = [hook % ("pull", ""), hook % ("push", ", reply_url: 'https://x.test/'"), robot]
    text = "connectors:\n- " + "- ".join(connectors) + "staff_chats: ['push:a', 'pull:b', 'ai:c']\n"
    pull, robot = load(text).warnings
    assert "staff_chats[1]" in pull
    assert "staff_chats[2]" in robot
    assert "speak first" in robot


def test_the_first_mistake_of_the_file_is_reported(refuse: Any) -> None:
    assert refuse("history: {budget: x}\nserver: {port: x}\n").key == "history.budget"


# --- plugins' own settings ---


class Nested(BaseModel, extra="forbid"):
    weight: float = 1.0


class Shop(BaseModel, extra="forbid"):
    files: list[ConfigPath] = [Path("faq.yaml")]
    index: Annotated[ConfigPath, Field(description="one file")] = Path("index.bin")
    threshold: float | Literal["auto"] = "auto"
    parts: dict[str, Nested] = {}


def test_a_plugins_settings_are_checked_by_its_model(load: Any, write: Any) -> None:
    faq = write("[]", "shop.yaml")
    shop = validate_plugin_config(Shop, load("plugins: {shop: {files: [shop.yaml], threshold: 0.5}}"), "shop")
    assert (shop.files, shop.threshold) == ([faq], 0.5)


def test_default_paths_of_a_plugin_may_be_missing(load: Any, write: Any, tmp_path: Path) -> None:
    shop = validate_plugin_config(Shop, load(""), "shop")
    assert (shop.files, shop.index) == ([], tmp_path / "index.bin")
    faq = write("[]", "faq.yaml")
    assert validate_plugin_config(Shop, load(""), "shop").files == [faq]


@pytest.mark.parametrize(
    ("settings", "line", "key", "says"),
    [
        ("enabled: true\n    thresold: 1", 4, "plugins.shop.thresold", "'threshold'"),
        ("threshold: often", 3, "plugins.shop.threshold", "auto"),
        ("files: [gone.yaml]", 3, "plugins.shop.files[0]", "gone.yaml does not exist"),
        ("index: gone.bin", 3, "plugins.shop.index", "gone.bin does not exist"),
        ("parts:\n      a: {wieght: 2}", 4, "plugins.shop.parts.a.wieght", "'weight'"),
    ],
)
def test_a_plugins_wrong_setting_names_the_line(
    load: Any, settings: str, line: int, key: str, says: str
) -> None:
    loaded = load(f"plugins:\n  shop:\n    {settings}\n")
    with pytest.raises(ConfigError) as caught:
        validate_plugin_config(Shop, loaded, "shop")
    assert (caught.value.line, caught.value.key) == (line, key)
    assert says in str(caught.value)


def test_other_modules_report_with_the_line(load: Any) -> None:
    error = load("retrieval:\n  encoder: fuze\n").error(("retrieval", "encoder"), "unknown", "use fuse")
    assert str(error).endswith("config.yaml:2: retrieval.encoder: unknown; use fuse")


def test_an_error_that_knows_its_key_only_gets_its_line(load: Any) -> None:
    loaded = load("messages:\n  page.title: {zh: 店}\n")
    located = loaded.located(ConfigError("unknown message", key="messages.page.title", remedy="remove it"))
    assert (located.line, located.key, located.problem) == (2, "messages.page.title", "unknown message")
    elsewhere = ConfigError("unknown", key="messages.gone")
    assert loaded.located(elsewhere) is elsewhere


# --- rates and schema ---


@given(
    st.integers(1, 10**6),
    st.integers(1, 1000),
    st.sampled_from(["s", "sec", "m", "min", "minute", "h", "hours", "d", "day"]),
)
def test_rates_mean_what_they_say(count: int, times: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit[0]]
    assert Rate.parse(f"{count}/{times}{unit}") == Rate(count, times * seconds)
    assert Rate.parse(f" {count} / {unit.upper()} ") == Rate(count, seconds)


@pytest.mark.parametrize("text", ["", "20", "0/minute", "5/0s", "-1/s", "1.5/s", "20/fortnight", "٣/s", "/s"])
def test_what_is_not_a_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Rate.parse(text)


def test_the_schema_is_json_and_knows_the_keys() -> None:
    schema = json.loads(json.dumps(config_schema()))
    known = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert schema["additionalProperties"] is False
    assert set(known) <= set(schema["properties"])


def test_vectors_are_cached_beside_the_database_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("store: {url: 'sqlite+aiosqlite:///bot.db'}", encoding="utf-8")
    assert load_config(file).vector_cache == tmp_path / "bot-vectors"
    file.write_text("retrieval: {cache: elsewhere}", encoding="utf-8")
    assert load_config(file).vector_cache == tmp_path / "elsewhere"
    file.write_text("store: {url: 'sqlite+aiosqlite:///:memory:'}", encoding="utf-8")
    assert load_config(file).vector_cache is None
