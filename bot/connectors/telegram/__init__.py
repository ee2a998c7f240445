"""Telegram by its Bot API: long polling or webhook, groups, topics, streaming, feedback buttons."""

from bot.connectors.telegram.connector import Telegram

__all__ = ["Telegram"]
