"""What several directories of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latency tables of this run: real kernels of the smallest network are measured once."""
    return tmp_path_factory.mktemp("tables")
