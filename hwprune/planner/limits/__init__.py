"""Limits beside latency: parameters, memory, and the widths of layers."""
