"""The FAQ tables, revision by revision."""
