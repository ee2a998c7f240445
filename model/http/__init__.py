"""HTTP faces of a ChatModel: OpenAI's API and ChatGLM-6B's own, with keys and limits."""

TIMEOUT = 600.0
"""Seconds for an answer, waiting included."""
