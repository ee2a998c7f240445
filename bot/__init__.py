"""glmbot's public API for plugin authors."""
