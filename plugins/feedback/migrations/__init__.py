"""The feedback tables, revision by revision."""
