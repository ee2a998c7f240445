"""A plugin's memory: its own, and there after a reload."""

from __future__ import annotations

from pathlib import Path

from bot import Memory
from bot.testing import BotTester

COUNTER = """
from bot import Memory, Message, Plugin

plugin = Plugin("{name}")
made = []

@plugin.command("{name}")
def count(message: Message, memory: Memory) -> str:
    made.append(1)
    seen = memory.keep("seen", list)
    seen.append(message.text)
    return f"{{len(seen)}} in memory, {{len(made)}} in the module"
"""


async def test_a_reload_leaves_each_plugin_its_memory_and_a_restart_does_not(
    bot_tester: BotTester, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(COUNTER.format(name=name), "utf-8")
    built_in = ("chat", "faq", "feedback", "handoff", "help", "knowledge", "moderation")
    off = {name: {"enabled": False} for name in built_in}
    bot = bot_tester.configure(plugin_folders=[str(tmp_path)], plugins=off)
    user = bot.private()
    await (await bot.app()).reload()  # from the folder
    for _ in range(2):
        await user.say("/one")
    await (await bot.app()).reload()
    assert (await user.say("/one")).text == "3 in memory, 1 in the module"
    assert (await user.say("/two")).text == "1 in memory, 1 in the module"
    await bot.close()
    await (await bot.app()).reload()
    assert (await user.say("/one")).text == "1 in memory, 1 in the module"


def test_a_value_is_made_once_for_a_name() -> None:
    memory = Memory()
    first = memory.keep("seen", list[str])
    assert memory.keep("seen", list[str]) is first
    assert memory.keep("told", list[str]) is not first
