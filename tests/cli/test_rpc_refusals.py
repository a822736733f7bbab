"""Devices that are named wrongly or not at all: refused before anything is built."""

import pytest

from tests.cli.conftest import Command

NET = ("tests.small:Small", "-i", "1x1x8x8")
BOARD = ("--target", "aarch64-cortex-a72")


@pytest.mark.parametrize(
    ("arguments", "code", "needles"),
    [
        (
            ("profile", *NET, *BOARD),
            2,
            ("'aarch64-cortex-a72' cannot be timed on this machine", "--rpc HOST:PORT", "--key NAME"),
        ),
        (("profile", *NET, *BOARD, "--rpc", "pi"), 2, ("'pi' is not the address of a server",)),
        (("plan", *NET, *BOARD, "--tracker", "farm:9190"), 2, ("add --key NAME",)),
        (("compile", *NET, *BOARD, "--key", "pi"), 2, ("add --tracker HOST:PORT",)),
        (
            ("plan", *NET, "--rpc", "127.0.0.1:1", "--tracker", "127.0.0.1:1", "--key", "a"),
            2,
            ("not both",),
        ),
        (
            ("profile", *NET, "--tracker", "127.0.0.1:1", "--key", "pi"),
            1,
            ("no RPC tracker answers at 127.0.0.1:1", "python -m tvm.exec.rpc_tracker"),
        ),
    ],
)
def test_refusals(hw: Command, arguments: tuple[str, ...], code: int, needles: tuple[str, ...]):
    ran = hw(*arguments)
    assert ran.code == code, ran.err
    assert ran.out == "" and "Traceback" not in ran.err
    for needle in needles:
        assert needle in ran.err
