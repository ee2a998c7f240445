"""FAQ: entries from files and the database, exact and fused retrieval, "did you mean"."""
