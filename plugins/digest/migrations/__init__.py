"""The digest tables, revision by revision."""
