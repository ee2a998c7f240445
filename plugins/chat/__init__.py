"""Talks to the model when there is one."""
