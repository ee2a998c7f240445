"""Records thumbs up and down."""
