"""What customers, staff and the database see of moderation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bot import Answered, Attachment, Message, Next, Plugin, Reply, Segment, Session, Stream
from bot.store import Audit, Tally
from bot.testing import BotTester, Person
from plugins.moderation.plugin import LONGEST, plugin

REFUSED = "这条消息里有不合适的内容，我没有处理。请换个说法再发。"
WITHHELD = "抱歉，这个回答不便显示。您可以换个说法再问，或者联系人工客服。"

echo = Plugin("echo")


@echo.message()
def repeat(message: Message) -> str:
    media = "".join(f"[{part.text}]" for part in message.segments)
    return f"bot: {message.text}{media}"


@echo.command("tell")
def tell(args: str) -> Reply:
    """Say what does not stand in the message yet: there 的 is between the characters."""
    text = args.replace("的", "")
    link = Attachment("link", f"看{text}", url="https://example.com", text=text)
    return Reply(
        text="请看", sources=(text,), source=f"来源{text}", choices=(text, "好"), attachments=(link,)
    )


@echo.command("say")
def say(args: str) -> str:
    return args.replace("的", "")


@echo.command("stream")
async def stream(args: str) -> Stream:
    return Stream(_letters(args.replace("的", "")), sources=(args.replace("的", ""),), model="m")


@echo.command("bare")
async def bare(args: str) -> AsyncIterator[str]:
    return _letters(args.replace("的", ""))


async def _letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        await asyncio.sleep(0)
        yield letter


@echo.event("entered")
def greet() -> str:
    return "敏感词"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text("敏感词\n坏话\tmask\n赌博\tmask pinyin\n", encoding="utf-8")
    return file


@pytest.fixture
def bot(bot_tester: BotTester, words: Path) -> Callable[..., BotTester]:
    def use(**settings: object) -> BotTester:
        bot_tester.use(plugin, **{"files": [str(words)], **settings}).use(echo)
        return bot_tester.configure(language="zh", roles={"admins": ["bot:boss"], "agents": ["test:agent"]})

    return use


async def counts(bot: BotTester) -> dict[str, int]:
    now = time.time()
    found = await Tally((await bot.app()).store).sums("moderated", now - 900, now + 900)
    return {item.label: item.count for item in found}


# -- what comes in ------------------------------------------------------------------------------


async def test_a_blocked_word_is_answered_in_place_of_handlers_and_a_masked_one_before_them(
    bot: Callable[..., BotTester],
) -> None:
    mei = bot().private("mei")
    assert (await mei.say("你好")).text == "bot: 你好"
    assert (await mei.say("说敏 感 词")).text == REFUSED
    assert (await mei.say("说坏-话，du bo")).text == "bot: 说***，*****"
    assert await counts(mei.tester) == {"word": 2}


async def test_all_texts_of_a_message_are_screened(bot: Callable[..., BotTester]) -> None:
    mei = bot().private("mei")
    segments = (Segment("link", "看坏话", "ref"), Segment("image", "", "photo"))
    assert (await mei.say("你好", segments=segments)).text == "bot: 你好[看**][]"
    assert (await mei.say("你好", segments=(Segment("link", "敏感词"),))).text == REFUSED


async def test_nobody_is_told_off_for_what_he_did_not_say_to_the_bot(bot: Callable[..., BotTester]) -> None:
    tester = bot(mute={"after": 1})
    overhear = Plugin("overhear")

    @overhear.message(overhear=True)
    def answer(message: Message) -> str:
        return f"heard: {message.text}"

    mei = tester.use(overhear).group("g1").user("mei")
    assert (await mei.say("敏感词")).text == ""
    assert (await mei.say("hello")).text == "heard: hello"
    assert (await mei.say("坏话")).text == "heard: **"


async def test_a_long_message_is_screened_in_pieces(bot: Callable[..., BotTester]) -> None:
    seen: list[str] = []
    first = Plugin("first")

    @first.message(priority=1)
    def note(message: Message) -> str:
        seen.append(message.text)
        return "noted"

    mei = bot().use(first).private("mei")
    await mei.say(f"{'好' * 4094}坏 话{'好' * 3000}")
    assert seen == [f"{'好' * 4094}***{'好' * 3000}"]
    assert (await mei.say(f"{'好' * 4094}敏感词")).text == REFUSED


@echo.command("ask")
async def ask(session: Session) -> str:
    return f"got {(await session.ask('which?', timeout=9)).text}"


async def test_an_answer_to_a_question_of_the_bot_is_screened(bot: Callable[..., BotTester]) -> None:
    mei = bot(mute={"after": 2}).private("mei")
    assert (await mei.say("/ask")).text == "which?"
    assert (await mei.say("敏感词")).text == REFUSED
    assert (await mei.say("坏话和赌博")).text == "got **和**"
    assert (await mei.say("/ask")).text == "which?"
    assert "不再处理" in (await mei.say("敏感词")).text
    assert (await mei.say("好")).text == ""


async def test_events_pass(bot: Callable[..., BotTester]) -> None:
    assert (await bot().private("mei").do("entered")).text == "敏感词"


async def test_history_keeps_no_blocked_word_and_no_personal_data(bot: Callable[..., BotTester]) -> None:
    tester = bot()
    mei = tester.private("mei")
    await mei.say("说敏感词")
    await mei.say("我的电话是13812345678")
    app = await tester.app()
    rounds = await app.history.rounds("\x1f".join(("test", "bot", "mei", "", "mei")), 9)
    assert [item.question for item in rounds] == ["说***", "我的电话是138****5678"]
    assert rounds[-1].answer == "bot: 我的电话是138****5678"


async def test_history_keeps_the_beginning_of_what_was_refused_as_too_long(
    bot: Callable[..., BotTester],
) -> None:
    tester = bot()
    await tester.private("mei").say("好" * 100_000)
    app = await tester.app()
    (only,) = await app.history.rounds("\x1f".join(("test", "bot", "mei", "", "mei")), 9)
    assert only.question == "好" * LONGEST


async def test_history_may_keep_personal_data(bot: Callable[..., BotTester]) -> None:
    tester = bot(mask_history=False)
    await tester.private("mei").say("我的电话是13812345678")
    app = await tester.app()
    (only,) = await app.history.rounds("\x1f".join(("test", "bot", "mei", "", "mei")), 9)
    assert only.question == "我的电话是13812345678"


# -- what goes out ------------------------------------------------------------------------------


async def test_an_answer_is_masked_or_withheld(bot: Callable[..., BotTester]) -> None:
    mei = bot().private("mei")
    assert (await mei.say("/say 说坏的话")).text == "说**"
    assert (await mei.say("/say 说敏的感词")).text == WITHHELD
    assert await counts(mei.tester) == {"out_word": 2}


async def test_all_that_is_shown_with_an_answer_is_screened(bot: Callable[..., BotTester]) -> None:
    mei = bot().private("mei")
    said = await mei.say("/tell 坏的话")
    assert said.choices == ("**", "好")
    assert said.sources == ("来源**", "**")
    assert "坏话" not in said.text
    assert "看**\n**\nhttps://example.com" in said.text
    said = await mei.say("/tell 敏的感词")
    assert (said.text, said.choices, said.sources, len(said.replies)) == (WITHHELD, (), (), 1)


async def test_what_is_said_and_asked_beside_the_answer_is_screened(bot: Callable[..., BotTester]) -> None:
    chatty = Plugin("chatty")

    @chatty.command("chatty")
    async def talk(session: Session) -> str:
        await session.say("说坏话")
        return (await session.ask(Reply("敏感词", choices=("赌博",)), timeout=9)).text

    mei = bot().use(chatty).private("mei")
    said = await mei.say("/chatty")
    assert [(part.text, part.choices) for part in said.replies] == [("说**", ()), (WITHHELD, ())]
    assert (await mei.say("好")).text == "好"
    assert await counts(mei.tester) == {"out_word": 2}


async def test_a_withheld_answer_is_a_miss(bot: Callable[..., BotTester]) -> None:
    missed: list[bool] = []
    noting = Plugin("noting")

    @noting.answered
    async def note(answered: Answered) -> None:
        missed.append(answered.reply.miss)

    mei = bot().use(noting).private("mei")
    for text in ("/say 好", "/say 敏的感词", "敏感词"):
        await mei.say(text)
    assert missed == [False, True, False]


@pytest.mark.parametrize("command", ["/stream", "/bare"])
async def test_a_stream_shows_no_part_of_a_word(bot: Callable[..., BotTester], command: str) -> None:
    tester = bot()
    mei = tester.private("mei")
    assert (await mei.say(f"{command} 先说坏的 话，再敏的锐")).text == "先说***，再敏锐"
    assert not any("坏" in shown for shown in tester.connector.shown)
    tester.connector.shown.clear()
    assert (await mei.say(f"{command} 先说敏的感的词还有")).text == "先说（后面的内容不便显示。）"
    assert not any("敏" in shown for shown in tester.connector.shown)
    assert await counts(tester) == {"out_word": 2}


async def test_a_blocked_stream_ends_its_source(bot: Callable[..., BotTester]) -> None:
    ended = asyncio.Event()
    held: list[AsyncIterator[str]] = []  # so that it is not closed just because nobody has it any more
    endless = Plugin("endless")

    @endless.command("endless")
    async def talk() -> AsyncIterator[str]:
        async def words() -> AsyncIterator[str]:
            try:
                while True:
                    yield "敏感词"
            finally:
                ended.set()

        held.append(words())
        return held[0]

    said = await bot().use(endless).private("mei").say("/endless")
    assert said.text == "（后面的内容不便显示。）"
    assert ended.is_set()


# -- who is not listened to ---------------------------------------------------------------------


async def test_whoever_goes_on_is_muted_and_told_once(bot: Callable[..., BotTester]) -> None:
    tester = bot(mute={"after": 3, "within": "10m", "lasts": "20m"})
    mei = tester.private("mei")
    said = [(await mei.say("敏感词")).text for _ in range(3)]
    assert said == [REFUSED, REFUSED, "您多次发送不合适的内容，接下来 20 分钟我不再处理您的消息。"]
    assert [(await mei.say("你好")).text for _ in range(2)] == ["", ""]
    assert (await mei.user("li").say("你好")).text == "bot: 你好"
    assert await counts(tester) == {"word": 3, "blocked_user": 2}
    assert [
        (item.actor, item.action, item.subject) for item in await Audit((await tester.app()).store).latest()
    ] == [("moderation", "block", "bot:mei")]


async def test_a_mute_ends_by_itself(bot: Callable[..., BotTester]) -> None:
    mei = bot(mute={"after": 2, "lasts": "300ms"}).private("mei")
    assert [(await mei.say(text)).text == "" for text in ("敏感词", "敏感词", "你好")] == [False, False, True]
    await asyncio.sleep(0.35)
    assert (await mei.say("你好")).text == "bot: 你好"
    assert (await mei.say("敏感词")).text == REFUSED  # counted from one again


@pytest.mark.parametrize("after", [2, None])
async def test_strikes_are_counted_within_a_time_only(
    bot: Callable[..., BotTester], after: int | None
) -> None:
    mei = bot(mute={"after": after, "within": "50ms"}).private("mei")
    for _ in range(3):
        assert (await mei.say("敏感词")).text == REFUSED
        await asyncio.sleep(0.06)


@pytest.mark.parametrize("name", ["boss", "agent"])
async def test_staff_are_masked_but_never_refused_muted_or_blocked(
    bot: Callable[..., BotTester], name: str
) -> None:
    staff = bot(mute={"after": 1}, blocked=[f"bot:{name}"]).private(name)
    for _ in range(2):
        assert (await staff.say("敏感词")).text == "bot: ***"
    assert (await staff.say("/say 敏的感词")).text == WITHHELD


@pytest.mark.parametrize("identity", ["bot:mei", "test:mei"])
async def test_the_configuration_blocks_in_silence(bot: Callable[..., BotTester], identity: str) -> None:
    tester = bot(files=[], blocked=[identity])
    mei = tester.private("mei")
    assert (await mei.say("你好")).text == ""
    assert (await mei.user("li").say("你好")).text == "bot: 你好"
    assert await counts(tester) == {"blocked_user": 1}


async def test_the_blocked_are_told_once_where_that_is_wanted(bot: Callable[..., BotTester]) -> None:
    mei = bot(blocked=["bot:mei"], tell_blocked=True).private("mei")
    assert "联系人工客服" in (await mei.say("你好")).text
    assert (await mei.say("你好")).text == ""


async def test_an_admin_blocks_and_unblocks(bot: Callable[..., BotTester]) -> None:
    tester = bot(blocked=["bot:xu"])
    boss, mei = tester.private("boss"), tester.private("mei")
    assert (await boss.say("/block mei 15")).text == "bot:mei 已被拉黑，还有 15 分钟（操作人 bot:boss）。"
    assert (await boss.say("/拉黑 bot:li")).text == "bot:li 已被拉黑，直到解除（操作人 bot:boss）。"
    assert (await mei.say("你好")).text == ""
    listed = (await boss.say("/blocks")).text.splitlines()
    assert [line.split()[0] for line in listed] == ["bot:li", "bot:mei", "bot:xu"]
    assert (await boss.say("/unblock mei")).text == "bot:mei 已解除拉黑。"
    assert (await mei.say("你好")).text == "bot: 你好"
    assert "没有被拉黑" in (await boss.say("/unblock mei")).text
    assert "设置" in (await boss.say("/unblock xu")).text
    done = await Audit((await tester.app()).store).latest()
    assert [(item.actor, item.action, item.subject, item.detail) for item in reversed(done)] == [
        ("bot:boss", "block", "bot:mei", "15 minutes"),
        ("bot:boss", "block", "bot:li", ""),
        ("bot:boss", "blocks", "", ""),
        ("bot:boss", "unblock", "bot:mei", ""),
    ]


@pytest.mark.parametrize("args", ["", "mei 0", "mei ten", "mei 5 6", "mei 99999999", "mei -5", "mei ²"])
async def test_a_wrong_command_is_explained(bot: Callable[..., BotTester], args: str) -> None:
    tester = bot()
    assert (await tester.private("boss").say(f"/block {args}")).text.startswith("写法：/block")
    assert (await tester.private("mei").say("你好")).text == "bot: 你好"


@pytest.mark.parametrize("command", ["/block li", "/unblock li", "/blocks", "/拉黑 li"])
@pytest.mark.parametrize("name", ["mei", "agent"])
async def test_only_admins_may(bot: Callable[..., BotTester], command: str, name: str) -> None:
    tester = bot()
    assert (await tester.private(name).say(command)).text == "抱歉，您没有使用这个命令的权限。"
    assert (await tester.private("li").say("你好")).text == "bot: 你好"
    assert await Audit((await tester.app()).store).latest() == []


# -- by itself ----------------------------------------------------------------------------------


async def test_with_the_defaults_nothing_is_changed(bot_tester: BotTester) -> None:
    seen: list[Message] = []
    watch = Plugin("watch")

    @watch.middleware(priority=2)
    async def note(message: Message, next: Next) -> object:
        seen.append(message)
        return await next(message)

    mei: Person = bot_tester.use(plugin).use(watch).use(echo).private("mei")
    assert (await mei.say("敏感词 13812345678")).text == "bot: 敏感词 13812345678"
    assert [message.text for message in seen] == ["敏感词 13812345678"]
    assert await counts(bot_tester) == {}


async def test_moderation_comes_before_other_middlewares(bot: Callable[..., BotTester]) -> None:
    seen: list[str] = []
    other = Plugin("other")

    @other.middleware(priority=2)
    async def note(message: Message, next: Next, session: Session) -> object:
        seen.append(message.text)
        return "坏话"

    mei = bot().use(other).private("mei")
    assert (await mei.say("说坏话")).text == "**"
    assert (await mei.say("敏感词")).text == REFUSED
    assert seen == ["说**"]
