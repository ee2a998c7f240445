"""Keeps sensitive words out of both directions, and unwelcome users away."""
