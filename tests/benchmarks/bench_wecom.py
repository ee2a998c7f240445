"""WeCom's callbacks: how many a core takes, how soon they are acknowledged, how often a token is fetched.

A callback is verified, decrypted, committed to a file and acknowledged by a process of its own, whose CPU
time counts; the calls are sealed before the clock starts. They go to the gate alone (server, connector and
inbox), and to a whole bot that has nothing to say, where every message takes its way through a lane as well.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import report
from load import whole_messages

from bot.catalogue import Catalogue
from bot.config import Config, ServerSettings
from bot.config_connectors import WecomAppSettings
from bot.connectors.base import Connector, Receipt
from bot.connectors.wecom.family import build
from bot.logs import configure_logging, new_trace
from bot.message import Message
from bot.metrics import Metrics
from bot.reply import Outgoing, Target
from bot.server import Server
from bot.store import Store
from bot.store.cursors import Cursors
from bot.store.inbox import Inbox
from bot.store.migrations import upgrade

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.e2e.bot_process import BotProcess, small_config
from tests.e2e.qyapi import AES_KEY, CORP, SECRET, TOKEN, Envelope, QyApi, as_xml, message

AGENT = 1000002
PATH = "/wecom-app/main"
AT_ONCE = 200
REST = 0.3
SENDS = 1000
PER_CORE, ACK_P99 = 1500, 100.0
TEXTS = (
    "请问一下，你们的运费是怎么算的？满多少可以包邮？",
    "我昨天下的单什么时候能到",
    "可以开专票吗",
    "你好",
)
_numbers = itertools.count(1)


@dataclass
class Tally:
    """What was counted: the seconds of each acknowledgement, and the other answers' statuses."""

    acks: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """One connection, on which calls are made one after the other."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._transport: Any = None
        self._calls: Iterator[bytes] = iter(())
        self._sent = 0.0
        self._rest = b""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """An acknowledgement: time for the next call."""
        found, self._rest = whole_messages(self._rest + data)
        for head, _ in found:
            if head[9:12] == b"200":
                self._tally.acks.append(time.perf_counter() - self._sent)
            else:
                self._tally.refused.append(int(head[9:12]))
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        """Hung up."""
        if not self._done.done():
            self._done.set_exception(ConnectionResetError("the bot hung up"))

    async def make(self, calls: Iterator[bytes]) -> None:
        """Make these calls until there are no more."""
        self._calls, self._done = calls, asyncio.get_running_loop().create_future()
        self._next()
        await self._done

    def close(self) -> None:
        """Hang up."""
        self._done.cancel()
        self._transport.close()

    def _next(self) -> None:
        call = next(self._calls, None)
        if call is None:
            self._done.set_result(None)
        else:
            self._sent = time.perf_counter()
            self._transport.write(call)


def sealed(count: int) -> list[bytes]:
    """Whole HTTP requests, each with a new message of one of 5,000 members."""
    envelope = Envelope(CORP)
    calls = []
    for number in itertools.islice(_numbers, count):
        fields = message(f"member-{number % 5000}", str(7_000_000_000 + number), TEXTS[number % 4], AGENT)
        query, encrypted = envelope.seal(as_xml(fields))
        body = as_xml({"ToUserName": CORP, "AgentID": AGENT, "Encrypt": encrypted})
        head = (
            f"POST {PATH}?{urlencode(query)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/xml\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        calls.append(head.encode() + body)
    return calls


# -- who is called ----------------------------------------------------------------------------


def application(base: str) -> dict[str, Any]:
    """The connector's entry in a configuration."""
    keys = {"corp_id": CORP, "agent_id": AGENT, "secret": SECRET, "token": TOKEN, "aes_key": AES_KEY}
    return {"type": "wecom-app", "name": "main", "api_base": base, **keys}


def connector(base: str, store: Store) -> Connector:
    """What such an entry makes."""
    settings = WecomAppSettings.model_validate(application(base))
    return build(
        [settings],
        catalogue=Catalogue({}),
        language="auto",
        max_body=ServerSettings().max_body,
        metrics=Metrics(),
        cursors=Cursors(store),
    )["main"]


class Gate:
    """Takes messages into the inbox, and does nothing else with them."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def receive(self, message: Message) -> Receipt:
        """See `bot.connectors.base.Inlet.receive`."""
        whole = replace(message.cleaned(), trace=new_trace())
        [inbox_id] = await self._inbox.accept([whole])
        return Receipt(inbox_id or 0, duplicate=inbox_id is None)


async def serve_gate(folder: Path, base: str) -> None:
    """Serve until stdin is closed; says its port on stdout."""
    configure_logging(Config(), sys.stderr)
    store = Store(f"sqlite+aiosqlite:///{folder / 'gate.db'}")
    await upgrade(store)
    store.start()
    app = connector(base, store)

    async def health() -> tuple[bool, dict[str, Any]]:
        return True, {}

    server = Server(ServerSettings(port=0), [app], health, Metrics())
    await server.start()
    await app.start(Gate(Inbox(store)))  # type: ignore[arg-type]
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await app.stop()
    await app.close()
    await server.stop()
    await store.close()


@asynccontextmanager
async def gate(folder: Path, base: str) -> AsyncIterator[tuple[int, int]]:
    """Yields (port, process id) of the gate alone."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, __file__, "--gate", str(folder), base)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    yield int(await process.stdout.readline()), process.pid
    process.stdin.close()
    await process.wait()


@asynccontextmanager
async def whole_bot(folder: Path, base: str) -> AsyncIterator[tuple[int, int]]:
    """Yields (port, process id) of a bot whose plugins answer nothing."""
    config = {**small_config(application(base)), "plugin_folders": []}
    async with BotProcess(folder, config) as bot:
        yield bot.port, bot.pid


STARTS = {"gate alone": gate, "whole bot": whole_bot}

# -- what is measured -------------------------------------------------------------------------


async def measure(names: Sequence[str], seconds: float, bursts: int, results: report.Report) -> None:
    """All there is to measure."""
    api = QyApi()
    async with api.open() as base:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                async with STARTS[name](Path(folder), base) as (port, pid):
                    await _called(name, port, psutil.Process(pid), seconds, bursts, results)
        await _sends(api, base, results)


async def _called(
    name: str, port: int, process: psutil.Process, seconds: float, bursts: int, results: report.Report
) -> None:
    tally = Tally()
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(tally), "127.0.0.1", port))[1] for _ in range(AT_ONCE)
    ]

    async def all_make(calls: list[bytes]) -> tuple[float, float]:
        """(seconds, CPU seconds of the process) that it takes until all calls are acknowledged."""
        shared = iter(calls)
        cpu, began = _cpu(process), time.perf_counter()
        await asyncio.gather(*(caller.make(shared) for caller in callers))
        return time.perf_counter() - began, _cpu(process) - cpu

    def row(load: str, took: float, cpu: float) -> tuple[float, float]:
        acks = [1000 * value for value in tally.acks]
        per_core, p99 = len(acks) / cpu, report.percentile(acks, 99)
        results.row(
            called=name,
            load=load,
            acknowledged=len(acks),
            refused=len(tally.refused),
            **{
                "per second": len(acks) / took,
                "per CPU second": per_core,
                "CPU us each": 1e6 / per_core,
                "ack p50 ms": report.percentile(acks, 50),
                "ack p99 ms": p99,
            },
        )
        tally.acks.clear()
        tally.refused.clear()
        return per_core, p99

    took, _ = await all_make(sealed(5 * AT_ONCE))  # warms up, and tells how many calls take so long
    tally.acks.clear()
    enough = max(5 * AT_ONCE, int(seconds * 5 * AT_ONCE / took))
    per_core, _ = row(f"{AT_ONCE} at all times", *await all_make(sealed(enough)))
    took = cpu = 0.0
    for calls in [sealed(AT_ONCE) for _ in range(bursts)]:
        await asyncio.sleep(REST)
        more = await all_make(calls)
        took, cpu = took + more[0], cpu + more[1]
    _, p99 = row(f"{AT_ONCE} at once", took, cpu)
    for caller in callers:
        caller.close()
    if name == "gate alone":  # the target is about callbacks, not about what then becomes of them
        results.at_least(f"{name}, callbacks per CPU second", per_core, PER_CORE)
    results.at_most(f"{name}, ack p99 of {AT_ONCE} at once", p99, ACK_P99, "ms")


async def _sends(api: QyApi, base: str, results: report.Report) -> None:
    before = api.calls["gettoken"]
    with tempfile.TemporaryDirectory() as folder:
        app = connector(base, Store(f"sqlite+aiosqlite:///{folder}/none.db"))
        began = time.perf_counter()
        await asyncio.gather(*(app.send(_answer(number)) for number in range(SENDS)))
        took = time.perf_counter() - began
        await app.close()
    fetched = api.calls["gettoken"] - before
    results.note(f"{SENDS:,} answers sent at once, to as many members: {SENDS / took:,.0f}/s, one process.")
    results.at_most(f"gettoken calls for {SENDS:,} sends at once", fetched, 1)


def _answer(number: int) -> Outgoing:
    target = Target("wecom-app", "main", f"member-{number}", user=f"member-{number}")
    return Outgoing(target, "满 99 元包邮。", f"answer-{number}")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Run and report; timings decide nothing."""
    parser = report.parser(__doc__ or "")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each load without pauses (default 10)"
    )
    parser.add_argument("--bursts", type=int, default=30, help=f"of {AT_ONCE} calls each (default 30)")
    parser.add_argument("--called", nargs="+", choices=STARTS, default=list(STARTS), help="what is called")
    parser.add_argument("--gate", nargs=2, metavar=("FOLDER", "API_BASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gate:
        asyncio.run(serve_gate(Path(options.gate[0]), options.gate[1]))
        return
    results = report.Report("WeCom: callbacks in, tokens out")
    results.note("Callers, fake API and bot share the machine; all calls of a load are sealed before it.")
    results.note("`per CPU second` counts every thread of the called process: what one core takes.")
    before = psutil.getloadavg()[0]
    asyncio.run(measure(options.called, options.seconds, options.bursts, results))
    results.note(f"Load average (1 min) before: {before:.1f}, after: {psutil.getloadavg()[0]:.1f}.")
    results.close(options.json)


if __name__ == "__main__":
    main()
