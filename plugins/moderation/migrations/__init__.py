"""The table of blocked users, revision by revision."""
