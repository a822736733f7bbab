"""Dependency: which channels can only be cut together, and which cannot be cut at all."""

from hwprune.dependency.analyse import analyse
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member, Reading, Refusal, Run, Tap
from hwprune.dependency.rules import rule
from hwprune.extent import Extent

__all__ = [
    "ChannelGroup",
    "Dependencies",
    "Extent",
    "Member",
    "Reading",
    "Refusal",
    "Run",
    "Tap",
    "analyse",
    "rule",
]
