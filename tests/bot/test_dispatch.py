"""The way of a message: order, isolation, asking back, deadlines, refusals, drain and recovery."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bot import (
    AskCancelled,
    AskTimeout,
    Message,
    Next,
    Plugin,
    Reply,
    Session,
    Stream,
    cooldown,
    role,
    to_me,
    unasked,
)
from bot.compose import target_of
from bot.errors import Overloaded
from bot.reply import Outgoing
from bot.session import session_key
from bot.store import Tally
from bot.store.inbox import MAX_ATTEMPTS, Inbox
from bot.store.outbox import SENT, OutboxTable
from bot.testing import BotTester, Person


def plugin_with(*handlers: Callable[[Plugin], Any]) -> Plugin:
    plugin = Plugin("p")
    for register in handlers:
        register(plugin)
    return plugin


def echo(plugin: Plugin) -> None:
    @plugin.message(to_me)
    async def echo(message: Message) -> str:
        return f"echo {message.text}"


async def test_a_handler_answers_and_the_round_is_kept(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo))
    user = bot_tester.private()
    assert (await user.say("hi")).text == "echo hi"
    app = await bot_tester.app()
    rounds = await app.history.rounds(session_of(user), 9)
    assert [(item.question, item.answer) for item in rounds] == [("hi", "echo hi")]


def session_of(user: Person) -> str:
    return session_key(user.message(""), "user-in-chat")


async def test_none_falls_through_and_nobody_is_a_clear_answer(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message(priority=1)
    async def first(message: Message) -> None:
        return None

    @plugin.message(priority=2)
    def second(message: Message) -> str | None:
        return "second" if message.text == "2" else None

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("2")).text == "second"
    assert "人工客服" in (await user.say("还有吗")).text
    assert "support team" in (await user.say("anything else?")).text


async def test_one_session_keeps_order_while_others_go_on(bot_tester: BotTester) -> None:
    gate = asyncio.Event()
    order: list[str] = []
    plugin = Plugin("p")

    @plugin.message()
    async def slow(message: Message) -> str:
        if message.text == "slow":
            await gate.wait()
        order.append(message.text)
        return message.text

    bot_tester.use(plugin)
    slow_user, other = bot_tester.private("a"), bot_tester.private("b")
    first = asyncio.create_task(slow_user.say("slow"))
    await asyncio.sleep(0)
    second = asyncio.create_task(slow_user.say("after"))
    assert (await other.say("quick")).text == "quick"
    gate.set()
    await asyncio.gather(first, second)
    assert order == ["quick", "slow", "after"]


async def test_a_handler_that_raises_costs_one_polite_line(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def broken(message: Message) -> str:
        if message.text == "boom":
            raise RuntimeError("secret detail")
        return "fine"

    bot_tester.use(plugin)
    user = bot_tester.private()
    said = await user.say("boom")
    assert "抱歉" in said.text or "Sorry" in said.text
    assert "secret detail" not in said.text
    assert len(said.replies) == 1
    assert (await user.say("again")).text == "fine"


async def explode_exit() -> str:
    raise SystemExit(2)


async def explode_cancelled() -> str:
    raise asyncio.CancelledError


async def explode_timeout() -> str:
    raise TimeoutError("upstream")


async def wrong_source() -> Reply:
    return Reply("x", sources=(42,))  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [explode_exit, explode_cancelled, explode_timeout, wrong_source])
async def test_whatever_a_handler_does_the_bot_goes_on(
    bot_tester: BotTester, fault: Callable[[], Awaitable[Any]]
) -> None:
    plugin = plugin_with(echo)
    plugin.command("fault")(fault)
    bot_tester.use(plugin)
    user = bot_tester.private()
    assert "出了点问题" in (await user.say("/fault")).text
    assert (await user.say("hi")).text == "echo hi"


async def test_an_answer_that_cannot_be_stored_as_it_is_is_cleaned(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def odd(message: Message) -> str:
        return "a\ud800b\x00c"

    bot_tester.use(plugin)
    assert (await bot_tester.private().say("x")).text == "a\ufffdb\ufffdc"


async def test_a_wrong_return_type_is_an_error_of_the_plugin(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def wrong(message: Message) -> Any:
        return 42

    bot_tester.use(plugin)
    assert "Sorry" in (await bot_tester.private().say("hello")).text


async def test_a_handler_over_its_deadline_is_stopped(bot_tester: BotTester) -> None:
    stopped = asyncio.Event()
    plugin = Plugin("p")

    @plugin.message()
    async def forever(message: Message) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    bot_tester.use(plugin).configure(dispatch={"deadline": 0.05})
    assert "Sorry" in (await bot_tester.private().say("hello")).text
    assert stopped.is_set()


async def test_asking_back(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.command("repair", "报修")
    async def repair(message: Message, session: Session) -> str:
        room = await session.ask("哪个房间？", timeout=60)
        floor = await session.ask("几楼？", timeout=60)
        return f"已登记 {room.text}-{floor.text}"

    bot_tester.use(plugin)
    chat = bot_tester.group("g1").user("u1")
    assert (await chat.say("@bot /报修")).text == "哪个房间？"
    assert (await bot_tester.group("g1").user("u2").say("99")).text == "", "others do not answer for u1"
    assert (await chat.say("@bot 12")).text == "几楼？"
    assert (await chat.say("@bot 3")).text == "已登记 12-3"


async def test_a_command_calls_a_question_off(bot_tester: BotTester) -> None:
    cancelled: list[bool] = []
    plugin = plugin_with(echo)

    @plugin.command("ask")
    async def ask(session: Session) -> str:
        try:
            return (await session.ask("well?")).text
        except AskCancelled as error:
            cancelled.append(error.stopping)
            raise

    @plugin.command("other")
    async def other() -> str:
        return "other"

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("/ask")).text == "well?"
    assert (await user.say("/other")).text == "other"
    assert cancelled == [False]
    assert (await user.say("hi")).text == "echo hi"


async def test_a_question_nobody_answers_times_out_politely(bot_tester: BotTester) -> None:
    seen = asyncio.Event()
    plugin = plugin_with(echo)

    @plugin.command("ask")
    async def ask(session: Session) -> str:
        try:
            await session.ask("well?", timeout=0.05)
        except AskTimeout:
            seen.set()
            raise
        return "?"

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("/ask")).text == "well?"
    await asyncio.wait_for(seen.wait(), 5)
    assert (await user.say("hi")).text == "echo hi"
    assert (
        "didn't hear back" in bot_tester.connector.sent[1].text or "等了" in bot_tester.connector.sent[1].text
    )


def asker(plugin: Plugin) -> None:
    @plugin.command("ask")
    async def ask(session: Session) -> str:
        return f"got {(await session.ask('well?', timeout=60)).text}"


async def test_an_event_or_a_refused_message_leaves_a_question_standing(bot_tester: BotTester) -> None:
    plugin = plugin_with(asker)

    @plugin.event("feedback")
    async def thumb(message: Message) -> None:
        return None

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("/ask")).text == "well?"
    await user.do("feedback", vote=1)
    assert "8000" in (await user.say("x" * 9000)).text
    assert (await user.say("302")).text == "got 302"


async def test_an_event_is_told_to_all_who_listen_and_answered_once(bot_tester: BotTester) -> None:
    heard = list[str]()
    for name, answer in (("one", None), ("two", "thanks"), ("three", "too late")):
        plugin = Plugin(name)

        @plugin.event("feedback")
        async def thumb(name: str = name, answer: str | None = answer) -> str | None:
            heard.append(name)
            return answer

        bot_tester.use(plugin)
    assert (await bot_tester.private().do("feedback", vote=1)).text == "thanks"
    assert heard == ["one", "two", "three"]


async def test_in_a_group_a_question_is_answered_without_a_mention(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(asker))
    group = bot_tester.group("g1")
    assert (await group.user("u1").say("@bot /ask")).text == "well?"
    assert (await group.user("u2").say("not me")).text == ""
    assert (await group.user("u1").say("302")).text == "got 302"
    assert (await group.user("u1").say("302")).text == ""


async def test_a_handler_that_asks_after_being_called_off_is_ended(bot_tester: BotTester) -> None:
    plugin = plugin_with(asker, echo)

    @plugin.command("stubborn")
    async def stubborn(session: Session) -> str:
        while True:
            with contextlib.suppress(AskCancelled):
                return (await session.ask("again?", timeout=60)).text

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("/stubborn")).text == "again?"
    assert (await user.say("/ask")).text == "well?"
    assert (await user.say("302")).text == "got 302"


async def test_what_was_said_before_a_crash_is_not_said_again(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def talk(message: Message, session: Session) -> str:
        await session.say("looking")
        return "found"

    bot_tester.use(plugin)
    app = await bot_tester.app()
    left = bot_tester.private().message("?", to_me=True, trace="t1")
    [inbox_id] = await Inbox(app.store).accept([left])
    said = Outgoing(target_of(left), "looking", "t1-s1-0", inbox_id=inbox_id, final=False)
    await app.store.write(OutboxTable.add([said], state=SENT))
    await app.dispatch.recover()
    await app.dispatch.outcome(inbox_id or 0, wait=5)
    parts = await OutboxTable(app.store).answers_to(inbox_id or 0)
    assert [(part.text, part.key) for part in parts] == [("looking", "t1-s1-0"), ("found", "t1-f-0")]


async def test_streamed_answers_are_shown_while_they_grow(bot_tester: BotTester) -> None:
    plugin = Plugin("p")
    shown: list[str] = []

    @plugin.message()
    async def stream(message: Message) -> AsyncIterator[str]:
        yield "一"
        await bot_tester.connector.seen.wait()
        yield ""  # only a sign of life: nothing to show
        await asyncio.sleep(0.01)
        shown.extend(bot_tester.connector.shown)
        yield "二"

    bot_tester.use(plugin)
    assert (await bot_tester.private().say("数")).text == "一二"
    assert shown == ["一"]


async def test_a_stream_with_extras(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    async def pieces() -> AsyncIterator[str]:
        yield "answer"

    @plugin.message()
    async def stream(message: Message) -> Stream:
        return Stream(pieces(), sources=("手册 › 退货",), feedback=True)

    bot_tester.use(plugin)
    [reply] = (await bot_tester.private().say("?")).replies
    assert (reply.text, reply.sources, reply.feedback) == ("answer", ("手册 › 退货",), True)


async def test_a_blank_stream_is_no_answer(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def stream(message: Message) -> AsyncIterator[str]:
        yield "  "

    bot_tester.use(plugin)
    assert (await bot_tester.private().say("在吗")).text == ""


async def test_middlewares_wrap_the_way(bot_tester: BotTester) -> None:
    plugin = plugin_with(echo)

    @plugin.middleware(priority=2)
    async def inner(message: Message, next: Next) -> Any:
        answer = await next(message)
        return Reply(f"[{answer.text if isinstance(answer, Reply) else answer}]")

    @plugin.middleware(priority=1)
    async def outer(message: Message, next: Next) -> Any:
        return "blocked" if message.text == "bad" else await next(message)

    bot_tester.use(plugin)
    user = bot_tester.private()
    assert (await user.say("hi")).text == "[echo hi]"
    assert (await user.say("bad")).text == "blocked"


async def test_roles_and_cooldown_tell_the_user_why(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.command("admin", rules=[role("admins")])
    async def admin() -> str:
        return "welcome"

    @plugin.command("slow", rules=[cooldown("1h")])
    async def slow() -> str:
        return "done"

    bot_tester.use(plugin).configure(roles={"admins": ["bot:boss"]})
    assert (await bot_tester.private("boss").say("/admin")).text == "welcome"
    assert "权限" in (await bot_tester.private("u1").say("/admin")).text
    user = bot_tester.private("u1")
    assert (await user.say("/slow")).text == "done"
    assert "稍等" in (await user.say("/slow")).text


@pytest.mark.parametrize(
    ("groups", "text", "answer"),
    [
        ({}, "hello", ""),
        ({}, "@bot hello", "echo hello"),
        ({"wake_words": ["小青"]}, "小青，在吗", "echo 在吗"),
        ({"respond": "all"}, "hello", "echo hello"),
    ],
)
async def test_groups_hear_the_bot_only_when_they_ask_it(
    bot_tester: BotTester, groups: dict[str, Any], text: str, answer: str
) -> None:
    bot_tester.use(plugin_with(echo)).configure(groups=groups)
    assert (await bot_tester.group("g").say(text)).text == answer


async def test_what_a_group_says_among_itself_is_not_recorded(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo))
    app = await bot_tester.app()
    chatter = bot_tester.group("g").message("private matters")
    assert (await app.dispatch.receive(chatter)).inbox_id == 0
    assert await app.dispatch.find(chatter.connector, chatter.bot, chatter.delivery) is None


@pytest.mark.parametrize(("respond", "answer"), [("mention", ""), ("faq", "heard")])
async def test_an_unasked_answer_is_for_groups_that_want_it(
    bot_tester: BotTester, respond: str, answer: str
) -> None:
    plugin = Plugin("p")

    @plugin.message(unasked, overhear=True)
    async def overhear(message: Message) -> str:
        return "heard"

    bot_tester.use(plugin).configure(groups={"respond": respond})
    assert (await bot_tester.group("g").say("shipping fee?")).text == answer


async def test_a_delivery_is_handled_once(bot_tester: BotTester) -> None:
    calls: list[str] = []
    plugin = Plugin("p")

    @plugin.message()
    async def count(message: Message) -> str:
        calls.append(message.text)
        return "once"

    bot_tester.use(plugin)
    app = await bot_tester.app()
    message = bot_tester.private().message("hi", delivery="same")
    receipts = await asyncio.gather(*(app.dispatch.receive(message) for _ in range(6)))
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert len({receipt.inbox_id for receipt in receipts}) == 1
    outcome = await app.dispatch.outcome(receipts[0].inbox_id, wait=5)
    assert [reply.text for reply in outcome.replies] == ["once"]
    assert calls == ["hi"]


async def test_a_huge_message_is_refused_not_handled(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo))
    said = await bot_tester.private().say("长" * 1_000_000)
    assert "8000" in said.text


async def test_unstorable_characters_are_replaced(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo))
    assert (await bot_tester.private().say("a\ud800b\x00c")).text == "echo a\ufffdb\ufffdc"


async def test_limits_tell_how_long_to_wait(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo)).configure(limits={"per_user": "2/minute"})
    user = bot_tester.private()
    texts = [(await user.say("hi")).text for _ in range(3)]
    assert texts[:2] == ["echo hi", "echo hi"]
    assert "wait" in texts[2]
    assert (await bot_tester.private("other").say("hi")).text == "echo hi"


@pytest.mark.parametrize("text", ["hi", "x" * 9000], ids=["one too many", "too long"])
async def test_a_refusal_passes_the_middlewares_too(bot_tester: BotTester, text: str) -> None:
    plugin = plugin_with(echo)
    seen: list[str] = []

    @plugin.middleware()
    async def silence(message: Message, next: Next) -> Any:
        seen.append(message.text)
        return None if len(seen) > 1 else await next(message)

    bot_tester.use(plugin).configure(limits={"per_user": "1/minute"})
    user = bot_tester.private()
    assert (await user.say("hi")).text == "echo hi"
    assert (await user.say(text)).text == ""
    assert seen == ["hi", text]


async def test_a_full_queue_is_refused_before_anything_is_recorded(bot_tester: BotTester) -> None:
    gate = asyncio.Event()
    plugin = Plugin("p")

    @plugin.message()
    async def wait(message: Message) -> str:
        await gate.wait()
        return "done"

    bot_tester.use(plugin).configure(dispatch={"queue": 2})
    app = await bot_tester.app()
    first, second, third = (bot_tester.private(f"u{n}").message("hi") for n in range(3))
    taken = [await app.dispatch.receive(message) for message in (first, second)]
    with pytest.raises(Overloaded):
        await app.dispatch.receive(third)
    gate.set()
    for receipt in taken:
        assert (await app.dispatch.outcome(receipt.inbox_id, wait=5)).done
    assert (await bot_tester.deliver(third)).text == "done"


async def test_the_bound_holds_for_what_comes_in_at_once(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo)).configure(dispatch={"queue": 5})
    app = await bot_tester.app()
    flood = [bot_tester.private(f"u{n}").message("hi") for n in range(50)]
    results = await asyncio.gather(*map(app.dispatch.receive, flood), return_exceptions=True)
    assert sum(not isinstance(result, Overloaded) for result in results) == 5


async def test_a_flooder_is_told_once(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo)).configure(limits={"per_user": "1/minute"})
    user = bot_tester.private()
    assert [bool((await user.say("hi")).text) for _ in range(4)] == [True, True, False, False]


async def test_a_group_is_told_once_and_its_people_are_not_blamed(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo)).configure(limits={"per_group": "2/minute"})
    group = bot_tester.group("g1")
    texts = [(await group.user(name).say("@bot hi")).text for name in ("mei", "li", "bo", "mei", "li")]
    assert texts[:2] == ["echo hi", "echo hi"]
    assert "in this group" in texts[2]
    assert texts[3:] == ["", ""]
    assert (await bot_tester.group("g2").user("mei").say("@bot hi")).text == "echo hi"


async def test_staff_have_no_limits(bot_tester: BotTester) -> None:
    roles = {"admins": ["bot:boss"], "agents": ["test:agent"]}
    limits = {"per_user": "1/minute", "per_group": "1/minute"}
    bot_tester.use(plugin_with(echo)).configure(limits=limits, roles=roles)
    group = bot_tester.group("g1")
    for name in ("boss", "agent", "boss", "agent", "mei"):
        assert (await group.user(name).say("@bot hi")).text == "echo hi"


async def test_messages_over_a_limit_are_counted(bot_tester: BotTester) -> None:
    limits = {"per_user": "1/minute", "per_group": "2/minute"}
    bot_tester.use(plugin_with(echo)).configure(limits=limits)
    group = bot_tester.group("g1")
    for name in ("mei", "mei", "mei", "li", "bo"):
        await group.user(name).say("@bot hi")
    app = await bot_tester.app()
    now = time.time()
    counts = await Tally(app.store).sums("moderated", now - 900, now + 900, chats=["bot:g1"])
    assert [(item.label, item.count) for item in counts] == [("user_limit", 2), ("group_limit", 1)]


async def test_what_answers_a_question_is_heard_by_plugins_first(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.command("ask")
    async def ask(session: Session) -> str:
        return f"got {(await session.ask('which?', timeout=9)).text}"

    @plugin.heard
    def hear(message: Message) -> Message | None:
        if message.text == "broken":
            raise ValueError
        return None if message.text == "bad" else replace(message, text=message.text.upper())

    @plugin.message()
    def other(message: Message) -> str:
        return f"other {message.text}"

    user = bot_tester.use(plugin).private()
    assert (await user.say("hi")).text == "other hi"
    assert (await user.say("/ask")).text == "which?"
    assert (await user.say("bad")).text == "other bad"
    assert (await user.say("broken")).text == "other broken"
    assert (await user.say("good")).text == "got GOOD"


async def test_what_is_said_beside_the_answer_passes_plugins(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.said
    def upper(reply: Reply) -> Reply:
        return replace(reply, text=reply.text.upper())

    @plugin.said
    async def twice(reply: Reply, message: Message) -> Reply:
        return replace(reply, text=f"{reply.text}, {message.user.id}")

    @plugin.message()
    async def talk(message: Message, session: Session) -> str:
        await session.say("looking")
        return f"{(await session.ask('which?', timeout=9)).text} found"

    user = bot_tester.use(plugin).private("mei")
    assert [reply.text for reply in (await user.say("?")).replies] == ["LOOKING, mei", "WHICH?, mei"]
    assert (await user.say("this")).text == "this found"


async def test_say_sends_before_the_answer(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def talk(message: Message, session: Session) -> str:
        await session.say("looking")
        return "found"

    bot_tester.use(plugin)
    said = await bot_tester.private().say("?")
    assert [(reply.text, reply.final) for reply in said.replies] == [("looking", False), ("found", True)]


async def test_history_is_trimmed_by_whole_rounds(bot_tester: BotTester) -> None:
    plugin = Plugin("p")

    @plugin.message()
    async def recall(message: Message, session: Session) -> str:
        return f"{[turn.question for turn in await session.history()]}"

    bot_tester.use(plugin).configure(history={"budget": 15, "rounds": 20})
    user = bot_tester.private()
    for text in ("aaaa", "bbbb", "cccc"):
        last = await user.say(text)
    assert last.text == "['bbbb']"


async def test_stopping_answers_what_was_accepted_and_ends_questions(bot_tester: BotTester) -> None:
    plugin = Plugin("p")
    started = asyncio.Event()

    @plugin.command("ask")
    async def ask(session: Session) -> str:
        return (await session.ask("well?")).text

    @plugin.message()
    async def slow(message: Message) -> str:
        started.set()
        await asyncio.sleep(0.05)
        return "answered"

    bot_tester.use(plugin)
    app = await bot_tester.app()
    await bot_tester.private("a").say("/ask")
    receipt = await app.dispatch.receive(bot_tester.private("b").message("hi"))
    await started.wait()
    assert await app.dispatch.drain(5)
    texts = [sent.text for sent in bot_tester.connector.sent]
    assert texts[0] == "well?"
    assert "answered" in texts
    assert any("取消" in text or "cancelled" in text for text in texts)
    with pytest.raises(Overloaded):
        await app.dispatch.receive(bot_tester.private("c").message("late"))
    assert (await app.dispatch.outcome(receipt.inbox_id)).done


async def test_what_a_crash_left_open_is_answered_at_the_next_start(bot_tester: BotTester) -> None:
    bot_tester.use(plugin_with(echo))
    app = await bot_tester.app()
    left = bot_tester.private().message("left open", to_me=True, trace="t1")
    [inbox_id] = await Inbox(app.store).accept([left])
    assert await app.dispatch.recover() == 1
    outcome = await app.dispatch.outcome(inbox_id or 0, wait=5)
    assert [reply.text for reply in outcome.replies] == ["echo left open"]


async def test_a_message_that_keeps_crashing_the_bot_is_given_up(bot_tester: BotTester) -> None:
    calls: list[str] = []
    plugin = Plugin("p")

    @plugin.message()
    async def poison(message: Message) -> str:
        calls.append(message.text)
        return "never"

    bot_tester.use(plugin)
    app = await bot_tester.app()
    inbox = Inbox(app.store)
    [inbox_id] = await inbox.accept([bot_tester.private().message("x", to_me=True, trace="t1")])
    for _ in range(MAX_ATTEMPTS):
        assert [left.inbox_id async for left in inbox.unfinished()] == [inbox_id]
    await app.dispatch.recover()
    outcome = await app.dispatch.outcome(inbox_id or 0, wait=5)
    assert outcome.done
    assert calls == []


async def test_a_plugin_that_fails_to_start_does_not_take_the_others_along(bot_tester: BotTester) -> None:
    bad = Plugin("bad")

    @bad.startup
    async def startup() -> Awaitable[None]:
        raise RuntimeError("no such file")

    @bad.message(priority=1)
    async def never(message: Message) -> str:
        return "never"

    bot_tester.use(bad).use(plugin_with(echo))
    assert (await bot_tester.private().say("hi")).text == "echo hi"
    _, report = await (await bot_tester.app()).health()
    assert report["plugins"]["bad"] == {"state": "off"}
    assert "no such file" in (await bot_tester.app()).program.failures[0].problem
