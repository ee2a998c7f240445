"""The hand-over tables, revision by revision."""
