"""Ways in and out: one module per platform, each behind the protocols of `base`."""
