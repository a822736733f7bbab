"""Versioned reading and writing of everything that is persisted."""

from hwprune.artifact.atomic import (
    atomic_directory,
    atomic_write_bytes,
    atomic_write_chunks,
    atomic_write_text,
)
from hwprune.artifact.envelope import Loaded, load_json, read_json, sha256_file, write_json

__all__ = [
    "Loaded",
    "atomic_directory",
    "atomic_write_bytes",
    "atomic_write_chunks",
    "atomic_write_text",
    "load_json",
    "read_json",
    "sha256_file",
    "write_json",
]
