"""Where the documentation comes from."""
