"""Tells at fixed times what was asked, what went unanswered, and what changed."""
