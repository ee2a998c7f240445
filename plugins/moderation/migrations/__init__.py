"""The moderation tables, revision by revision."""
