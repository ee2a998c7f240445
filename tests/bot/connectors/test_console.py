"""The console: lines in, answers out, in order; the end of the input ends the talk."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.config_connectors import ConsoleSettings
from bot.connectors.base import Outcome, Receipt
from bot.connectors.console import MAX_LINE, Console, _lines
from bot.errors import Overloaded
from bot.message import Message
from bot.reply import Outgoing, Target


class Core:
    """Answers every message at once through the connector, as the core does for one that is fetched."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.heard: list[str] = []
        self.fails = False

    async def receive(self, message: Message) -> Receipt:
        if self.fails:
            raise Overloaded
        self.heard.append(message.text)
        target = Target(message.connector, message.bot, message.chat.id, message_id=message.id)
        if message.text == "stream":
            await self.console.progress(target, "one", None)
            await self.console.progress(target, "one two", None)
            await self.console.send(Outgoing(target, "one two three\n\nSources\n[1] a.md", "k"))
        elif message.text == "withdrawn":
            await self.console.progress(target, "something", None)
            await self.console.send(Outgoing(target, "sorry", "k"))
        else:
            await self.console.send(Outgoing(target, f"echo {message.text}", "k"))
        return Receipt(len(self.heard), duplicate=False)

    async def outcome(self, inbox_id: int, *, wait: float = 0.0) -> Outcome:
        return Outcome(inbox_id, done=True)


class Terminal:
    """The two ends of a console whose input is a pipe."""

    def __init__(self) -> None:
        reading, self.input = os.pipe()
        self.output = io.StringIO()
        self.console = Console(ConsoleSettings(name="chat"), stdin=reading, stdout=self.output)
        self.core = Core(self.console)
        self._reading = reading

    async def run(self, typed: bytes) -> str:
        """Type all of it, end the input, and see what is printed."""
        await self.console.start(self.core)  # type: ignore[arg-type]
        os.write(self.input, typed)
        os.close(self.input)
        await asyncio.wait_for(self.console.wait(), 10)
        await self.console.stop()
        await self.console.close()
        return self.output.getvalue()


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal._reading)


async def test_all_lines_of_a_pipe_are_answered_in_order(terminal: Terminal) -> None:
    printed = await terminal.run("运费？\n\n  \nsecond\r\nlast without an end".encode())
    assert printed == "echo 运费？\necho second\necho last without an end\n"
    assert terminal.console.status.state == "stopped"


async def test_a_streamed_answer_is_printed_once(terminal: Terminal) -> None:
    assert await terminal.run(b"stream\n") == "one two three\n\nSources\n[1] a.md\n"


async def test_an_answer_that_replaces_what_was_streamed_is_printed_whole(terminal: Terminal) -> None:
    assert await terminal.run(b"withdrawn\n") == "something\nsorry\n"


async def test_no_answer_can_steer_the_terminal(terminal: Terminal) -> None:
    assert await terminal.run(b"\x1b[2Jhi\x07\n") == "echo [2Jhi\n"


async def test_a_core_that_takes_nothing_is_said_and_the_talk_goes_on(terminal: Terminal) -> None:
    terminal.core.fails = True
    printed = await terminal.run(b"one\ntwo\n")
    assert printed.count("! queue full") == 2


async def test_output_that_nobody_reads_ends_the_talk(terminal: Terminal) -> None:
    terminal.output.close()
    await terminal.console.start(terminal.core)  # type: ignore[arg-type]
    os.write(terminal.input, b"one\n")
    await asyncio.wait_for(terminal.console.wait(), 10)
    await terminal.console.stop()
    await terminal.console.close()
    os.close(terminal.input)


async def test_a_stop_does_not_wait_for_the_user(terminal: Terminal) -> None:
    await terminal.console.start(terminal.core)  # type: ignore[arg-type]
    await terminal.console.stop()
    await asyncio.wait_for(terminal.console.close(), 10)
    await asyncio.wait_for(terminal.console.wait(), 10)
    os.close(terminal.input)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=80)))
def test_lines_come_out_as_they_went_in(lines: list[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, "".join(f"{line}\n" for line in lines).encode())
    os.close(writing)
    assert list(_lines(reading)) == lines
    os.close(reading)


def test_bad_bytes_and_endless_lines_do_no_harm(tmp_path: Any) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\xff\xfe\n" + b"a" * (3 * MAX_LINE) + b"\nend")
    with file.open("rb") as opened:
        lines = list(_lines(opened.fileno()))
    assert lines[0] == "\ufffd\ufffd"
    assert lines[-1] == "end"
    assert "".join(lines[1:-1]) == "a" * (3 * MAX_LINE)
    assert max(map(len, lines)) < 2 * MAX_LINE
