"""The web chat page in a real browser: ask, watch the answer grow, come back, be somebody else."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bot import Message, Plugin, Reply, Session, Stream
from bot.store import History

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
expect = playwright.expect
CHROMIUM = os.environ.get("GLMBOT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script>"
OpenPage = Callable[..., Awaitable[Any]]


class Shop:
    """A plugin whose long answer grows only when it is told to."""

    def __init__(self) -> None:
        self.plugin = Plugin("shop")
        self.more = asyncio.Event()
        self.plugin.message()(self.answer)
        self.plugin.command("clear")(self.clear)
        self.plugin.event("feedback")(self.vote)
        self.votes: asyncio.Queue[int] = asyncio.Queue()

    async def answer(self, message: Message) -> Reply | Stream:
        if "运费" in message.text:
            return Stream(self.words(), sources=("运费说明.md",), feedback=True, markdown=True)
        if "which" in message.text:
            return Reply("This one or that one?", choices=("This one", "That one"))
        return Reply(f"echo {message.text}", feedback=True)

    async def words(self) -> AsyncIterator[str]:
        yield "满 99 元"
        await self.more.wait()
        yield "**包邮**。"

    async def clear(self, session: Session) -> str:
        await session.clear()
        return session.text("cleared")

    async def vote(self, message: Message, history: History) -> None:
        await history.vote(message.connector, message.user.id, message.data["inbox_id"], message.data["vote"])
        self.votes.put_nowait(message.data["vote"])


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def open_page(serve_bot: Any, shop: Shop) -> AsyncIterator[OpenPage]:
    """Opens the page as a new visitor; what the browser complains about fails the test."""
    app = await serve_bot(shop.plugin, {"type": "webchat", "name": "site"})
    complaints: list[str] = []
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        async def open_page(locale: str = "zh-CN", **options: Any) -> Any:
            context = await browser.new_context(locale=locale, **options)
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
            page.on("dialog", lambda dialog: dialog.accept())
            await page.goto(f"http://127.0.0.1:{app.server.port}/")
            await expect(page.locator("[data-state=online]")).to_be_visible()
            return page

        yield open_page
        await browser.close()
    assert not [text for text in complaints if not text.startswith("Failed to load resource")]


async def ask(page: Any, text: str) -> None:
    await page.locator("#input").fill(text)
    await page.locator("#input").press("Enter")


async def test_a_chinese_question_is_answered_word_by_word_and_stays(open_page: OpenPage, shop: Shop) -> None:
    page = await open_page()
    await ask(page, "运费是多少？")
    await expect(page.locator(".asked")).to_contain_text("运费是多少？")
    growing = page.locator(".answered.growing .body")
    await expect(growing).to_have_text("满 99 元")
    shop.more.set()
    answer = page.locator(".answered:not(.growing) .body")
    await expect(answer).to_have_text("满 99 元包邮。")
    await expect(answer.locator("strong")).to_have_text("包邮")
    await expect(page.locator(".sources li")).to_have_text("运费说明.md")

    await page.reload()
    await expect(page.locator(".asked")).to_contain_text("运费是多少？")
    await expect(page.locator(".answered .body")).to_have_text("满 99 元包邮。")
    await expect(page.locator(".sources li")).to_have_text("运费说明.md")

    stranger = await open_page()
    await expect(stranger.locator("#empty")).to_be_visible()
    await expect(stranger.locator(".bubble")).to_have_count(0)


async def test_a_page_loaded_while_an_answer_grows_shows_it(open_page: OpenPage, shop: Shop) -> None:
    page = await open_page()
    await ask(page, "运费")
    await expect(page.locator(".growing")).to_be_visible()
    await page.reload()
    await expect(page.locator(".asked")).to_contain_text("运费")
    await expect(page.locator(".typing, .growing")).to_be_visible()
    shop.more.set()
    await expect(page.locator(".answered:not(.growing) .body")).to_have_text("满 99 元包邮。")
    await expect(page.locator(".asked")).to_have_count(1)


async def test_the_language_can_be_changed_and_is_remembered(open_page: OpenPage) -> None:
    page = await open_page()
    await expect(page.locator("h1")).to_have_text("在线客服")
    await page.get_by_role("button", name="English").click()
    await expect(page.locator("h1")).to_have_text("Customer support")
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await page.reload()
    await expect(page.locator("h1")).to_have_text("Customer support")
    english = await open_page(locale="en-US")
    await expect(english.locator("h1")).to_have_text("Customer support")


async def test_everything_can_be_done_from_the_keyboard(open_page: OpenPage, shop: Shop) -> None:
    page = await open_page(locale="en-US")
    await page.keyboard.type("which one?")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second line")
    await page.keyboard.press("Enter")
    await expect(page.locator(".asked")).to_contain_text("which one?\nsecond line", use_inner_text=True)
    await expect(page.locator(".choices button")).to_have_count(2)
    await expect(page.locator("#input")).to_be_focused()
    await page.keyboard.press("Shift+Tab")
    await expect(page.get_by_role("button", name="That one")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".answered .body").last).to_have_text("echo That one")
    helpful = page.get_by_role("button", name="Helpful", exact=True)
    await helpful.focus()
    await page.keyboard.press("Space")
    assert await asyncio.wait_for(shop.votes.get(), 10) == 1
    await expect(helpful).to_have_attribute("aria-pressed", "true")
    await page.reload()
    await expect(helpful).to_have_attribute("aria-pressed", "true")


async def test_clearing_empties_the_page_for_good(open_page: OpenPage) -> None:
    page = await open_page()
    await ask(page, "hello")
    await expect(page.locator(".answered .body")).to_have_text("echo hello")
    await page.get_by_role("button", name="清除对话").click()
    await expect(page.locator(".note")).to_be_visible()
    await expect(page.locator(".bubble")).to_have_count(0)
    await page.reload()
    await expect(page.locator("#empty")).to_be_visible()


async def test_what_people_write_stays_text(open_page: OpenPage) -> None:
    page = await open_page()
    await ask(page, ATTACK)
    await expect(page.locator(".answered .body")).to_have_text(f"echo {ATTACK}")
    await expect(page.locator(".log img, .log script")).to_have_count(0)


async def test_a_question_that_did_not_arrive_can_be_sent_again(open_page: OpenPage) -> None:
    page = await open_page()
    await page.route("**/messages", lambda route: route.fulfill(status=503, headers={"Retry-After": "9"}))
    await ask(page, "hello")
    await expect(page.locator(".failed")).to_contain_text("9")
    await page.unroute("**/messages")
    await page.get_by_role("button", name="重试").click()
    await expect(page.locator(".answered .body")).to_have_text("echo hello")
    await expect(page.locator(".failed")).to_have_count(0)


async def test_a_narrow_dark_screen_shows_everything(open_page: OpenPage) -> None:
    page = await open_page(viewport={"width": 320, "height": 560}, color_scheme="dark")
    await ask(page, "x" * 300)
    await expect(page.locator(".answered .body")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    await expect(page.get_by_role("button", name="发送")).to_be_in_viewport()
