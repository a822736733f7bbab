"""What runs on the device: sources of the one script in a carried bundle.

These modules use the standard library of Python 3.8 and nothing else. They are joined into ``run.py``
by :mod:`hwprune.measure.carry.script`, where the names of all of them lie side by side.
"""
