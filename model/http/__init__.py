"""HTTP faces of a ChatModel: OpenAI's API and ChatGLM-6B's own, with keys and limits."""
