"""The knowledge tables, revision by revision."""
