"""The core's schema revisions."""
