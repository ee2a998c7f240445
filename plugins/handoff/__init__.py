"""Hands a talk over to people, and keeps the bot silent until they give it back."""
