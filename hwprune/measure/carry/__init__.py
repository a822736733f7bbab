"""Measuring on a device that cannot be reached: a directory that is carried there and back."""
