"""The main job on a small real task: handwritten digits, from training to a benchmarked module."""
