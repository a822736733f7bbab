"""Dependency: which channels can only be cut together, and which cannot be cut at all."""

from hwprune.dependency.analyse import analyse
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member, Reading, Refusal, Run, Tap
from hwprune.dependency.register import register_rule
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Tracker
from hwprune.extent import Extent

__all__ = [
    "Barrier",
    "ChannelGroup",
    "Dependencies",
    "Extent",
    "Member",
    "Reading",
    "Refusal",
    "Run",
    "Tap",
    "Tracker",
    "analyse",
    "register_rule",
    "rule",
]
