"""What a plan's widths, blocks and resolutions are worth, measured on held-out data."""
