"""Keeps sensitive words, blocked users and floods out, and personal data out of what is kept."""
