"""A talk in the terminal: what is remembered, and Ctrl-C, with a scripted model and with a real one."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from model.chat_console import talk
from model.random_model import make_random
from model.types import Delta, GenerationParams, ModelError, Turn

IN_A_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from bot.cli import main
main()
"""


class Scripted:
    """A model that gives these answers, and remembers what it was asked with which history.

    "^C" in an answer is Ctrl-C.
    """

    name = "scripted"
    max_context = 100

    def __init__(self, *answers: list[str] | ModelError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, list[Turn]]] = []

    def count_tokens(self, text: str) -> int:
        return len(text)

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        self.asked.append((query, list(history)))
        answer = self.answers.pop(0)
        if isinstance(answer, ModelError):
            raise answer
        for text in answer:
            if text == "^C":
                raise KeyboardInterrupt
            yield Delta(text)
        yield Delta("", "stop")

    def close(self) -> None:
        pass


def talk_with(
    model: Scripted, lines: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """The talk when these lines are typed; what went to stdout and to stderr."""
    with monkeypatch.context() as patch:
        waiting = iter(lines.splitlines())

        def type_line(prompt: str) -> str:
            line = next(waiting, None)
            if line is None:
                raise EOFError
            if line == "^C":
                raise KeyboardInterrupt
            return line

        patch.setattr("builtins.input", type_line)
        talk(model, GenerationParams())
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_talk_streams_remembers_forgets_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted(["a", "b"], ["c"], ["d"])
    out, _ = talk_with(model, "one\n\n two \nclear\nthree\nstop\nfour", monkeypatch, capsys)
    assert out == "ab\nc\nd\n"
    assert model.asked == [("one", []), ("two", [Turn("one", "ab")]), ("three", [])]


def test_ctrl_c_breaks_an_answer_off_and_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted(["par", "tial", "^C", "lost"], ["^C"], ["whole"])
    out, _ = talk_with(model, "one\ntwo\nthree\n^C\nfour", monkeypatch, capsys)
    assert out == "partial\n\nwhole\n\n"
    assert [history for _, history in model.asked] == [[], *[[Turn("one", "partial")]] * 2]


def test_a_question_that_fails_does_not_end_the_talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted(ModelError("the prompt is too long", remedy="shorten it"), ["fine"])
    out, err = talk_with(model, "one\ntwo", monkeypatch, capsys)
    assert out == "fine\n\n"
    assert err == "error: the prompt is too long; shorten it\n"
    assert model.asked[1] == ("two", [])


class Terminal:
    """A process in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment,
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What was shown up to the end of a match, which is then forgotten."""
        while not (found := re.search(pattern, self.seen)):
            if not select.select([self.master], [], [], 30)[0]:
                pytest.fail(f"{pattern!r} never came: {self.seen!r}")
            try:
                self.seen += self._decoder.decode(os.read(self.master, 4096))
            except OSError:  # the process has ended
                pytest.fail(f"{pattern!r} never came: {self.seen!r}")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def interrupt(self) -> int:
        """Press Ctrl-C until the process ends: `input` misses one just after it has shown its prompt."""
        for _ in range(5):
            self.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=8)
        return pytest.fail("it did not end")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    make_random(tmp_path / "TINY", seed=3)
    words = ("--max-new-tokens", "1000", "--seed", "1", "--device", "cpu")
    terminal = Terminal("model", "chat", str(tmp_path / "TINY"), *words)
    yield terminal
    terminal.close()


def test_ctrl_c_in_a_terminal(terminal: Terminal) -> None:
    terminal.wait_for("stop ends\r\n> ")
    terminal.type("hello\r")
    terminal.wait_for(r"hello\r\n.{10}")
    terminal.type("\x03")
    terminal.wait_for(r"\r\n\(broken off\)\r\n> ")
    terminal.type("clear\r")
    terminal.wait_for(r"\(history cleared\)\r\n> ")
    assert terminal.interrupt() == 0
