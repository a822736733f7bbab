"""One plan for several targets."""
