"""A bot with a model in its process: users read what it wrote; where it is broken they still get answers."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.testing import BotTester
from model.types import GenerationParams, Turn
from plugins.chat.plugin import plugin as chat
from plugins.knowledge.plugin import plugin as knowledge
from tests.e2e.bot_process import BotProcess
from tests.e2e.platforms import TOKEN, BotApi

pytest.importorskip("torch", reason="needs the extra [model]")
GUIDE = "# 配送说明\n\n## 偏远地区\n新疆和西藏满 199 元包邮，不满收取 18 元，一般五到七天送达。\n"
ABOUT_GUIDE = "新疆西藏满多少元包邮"
WORDS = 40
MODEL = {"device": "cpu", "max_context": 512, "max_new_tokens": WORDS}
GREEDY = GenerationParams(max_new_tokens=WORDS, temperature=0.0)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Matrices so small make more threads only wait for one another."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model and its tokenizer."""
    from model.random_model import make_random

    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_random(folder)
    return folder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE, "utf-8")
    return folder


class Writer:
    """The model, loaded here: what it says to a question when nothing is left to chance."""

    def __init__(self, folder: Path) -> None:
        import model

        self._model = model.load(folder, device="cpu", max_context=512)

    @property
    def kernels(self) -> str:
        return self._model.kernels

    def answer(self, question: str, *history: Turn) -> str:
        return "".join(delta.text for delta in self._model.stream(question, history, GREEDY))


class Visitor:
    """Somebody on the web page."""

    def __init__(self, base: str, client: aiohttp.ClientSession) -> None:
        self._base = f"{base}/webchat/site"
        self._client = client
        self._asked = 0

    async def ask(self, text: str) -> tuple[str, list[str], dict[str, Any]]:
        """(the answer, the pieces in which it was shown before, all fields of the reply)"""
        self._asked += 1
        number = f"question-{self._asked}"
        async with self._client.get(f"{self._base}/events?after=0") as events:
            body = {"text": text, "id": number}
            async with self._client.post(f"{self._base}/messages", json=body) as posted:
                assert posted.status == 202
            pieces = []
            async for name, data in read_events(events):
                if name == "delta" and data["to"] == number:
                    pieces.append(data["text"])
                if name == "reply" and data["to"] == number:
                    return data["text"], pieces, data
        raise AssertionError("the stream ended without an answer")


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    fields: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        fields[name] = value
        if line == b"\n":
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"])
            fields = {}


@asynccontextmanager
async def visit(bot: BotProcess) -> AsyncIterator[Visitor]:
    jar = aiohttp.CookieJar(unsafe=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as client:
        async with client.get(bot.base):
            pass
        yield Visitor(bot.base, client)


async def model_state(bot: BotProcess) -> dict[str, str]:
    async with aiohttp.ClientSession() as client, client.get(f"{bot.base}/readyz") as response:
        assert response.status == 200
        state: dict[str, str] = (await response.json())["model"]
        return state


def config(weights: Path, docs: Path, *connectors: dict[str, Any]) -> dict[str, Any]:
    return {
        "store": {"url": "sqlite+aiosqlite:///bot.db"},
        "model": {"path": str(weights), **MODEL},
        "plugins": {
            "faq": {"enabled": False},
            "knowledge": {"folders": [str(docs)], "threshold": 0.3},
            "chat": {"temperature": 0.0},
        },
        "language": "zh",
        "connectors": [{"type": "webchat", "name": "site"}, *connectors],
        "log": {"format": "json"},
    }


async def test_users_of_telegram_and_of_the_page_read_what_the_model_wrote(
    tmp_path: Path, tiny: Path, docs: Path
) -> None:
    api, writer = BotApi(), Writer(tiny)
    async with api.open() as base:
        telegram = {"type": "telegram", "name": "main", "token": TOKEN, "api_base": base}
        async with BotProcess(tmp_path, config(tiny, docs, telegram)) as bot, visit(bot) as visitor:
            state = await model_state(bot)
            assert state == {"state": "ok", "name": "tiny", "kernels": writer.kernels}

            hello = writer.answer("给我讲个故事")
            await api.write(7, "给我讲个故事")
            await api.news.until(lambda: api.in_chat(7) and api.in_chat(7)[0].text == hello.strip())
            again = writer.answer("再说一遍", Turn("给我讲个故事", hello))
            assert again != writer.answer("再说一遍")
            await api.write(7, "再说一遍")
            await api.news.until(lambda: api.in_chat(7)[-1].text == again.strip())

            answer, pieces, _ = await visitor.ask("给我讲个故事")
            assert answer == hello
            assert len(pieces) > 1
            assert hello.startswith("".join(pieces))
            answer, _, _ = await visitor.ask("再说一遍")
            assert answer == again

            bot.terminate()
            assert await bot.ended() == 0


async def test_with_a_broken_checkpoint_the_documents_still_answer(
    tmp_path: Path, tiny: Path, docs: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = broken / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    async with BotProcess(tmp_path, config(broken, docs)) as bot, visit(bot) as visitor:
        state = await model_state(bot)
        assert state["state"] == "failed"
        assert state["problem"]
        answer, _, fields = await visitor.ask(ABOUT_GUIDE)
        assert "满 199 元包邮" in answer
        assert fields["sources"]
        assert "答不上来" in (await visitor.ask("给我讲个故事"))[0]
    lines = [json.loads(line) for line in bot.log.read_text("utf-8").splitlines()]
    [error] = [line for line in lines if line["level"] == "error"]
    assert error["key"] == "model.path"
    assert str(weights) in error["problem"]


async def test_the_model_reads_the_passages_and_is_cited_with_them(
    bot_tester: BotTester, tiny: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.language_model import LanguageModel

    questions: list[str] = []
    prompt = LanguageModel.prompt

    def watched(
        self: LanguageModel, query: str, history: Sequence[Turn], params: GenerationParams
    ) -> list[int]:
        questions.append(query)
        return prompt(self, query, history, params)

    monkeypatch.setattr(LanguageModel, "prompt", watched)
    bot_tester.use(knowledge, folders=[str(docs)], threshold=0.3, temperature=0.0).use(chat)
    bot_tester.configure(model={"path": str(tiny), **MODEL})
    said = await bot_tester.private().say(ABOUT_GUIDE)
    [question] = questions
    assert "新疆和西藏满 199 元包邮" in question
    assert said.text == Writer(tiny).answer(question)
    assert said.sources == ("配送说明 › 偏远地区",)


async def test_a_prompt_that_does_not_fit_leaves_the_quotation(
    bot_tester: BotTester, tiny: Path, docs: Path
) -> None:
    bot_tester.use(knowledge, folders=[str(docs)], threshold=0.3)
    bot_tester.configure(model={"path": str(tiny), **MODEL, "max_context": WORDS + 20})
    said = await bot_tester.private().say(ABOUT_GUIDE)
    assert "满 199 元包邮" in said.text
    assert said.sources


async def test_a_bot_that_stops_takes_the_model_along(bot_tester: BotTester, tiny: Path) -> None:
    bot_tester.use(chat).configure(model={"path": str(tiny), **MODEL, "max_new_tokens": 400})
    asking = asyncio.create_task(bot_tester.private().say("给我讲个故事"))
    await asyncio.wait_for(bot_tester.connector.seen.wait(), 30)
    await bot_tester.close()
    assert (await asking).text
    assert "model" not in [thread.name for thread in threading.enumerate()]
