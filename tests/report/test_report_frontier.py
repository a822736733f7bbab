"""The drawing of a frontier, as a file that any viewer opens."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hwprune.report.frontier import FrontierData, draw_frontier

EXACT = [(1.0, 0.4), (2.0, 0.7), (4.0, 1.0)]
RIVALS = {"greedy": [(1.1, 0.35), (2.0, 0.6)], "uniform": [(1.5, 0.3)]}


def drawn(data: FrontierData) -> tuple[ElementTree.Element, str]:
    pytest.importorskip("matplotlib")
    text = draw_frontier(data)
    return ElementTree.fromstring(text), text


def test_it_is_an_svg_file_with_every_method_and_its_colours():
    data = FrontierData("Net on host", EXACT, measured=[(2.1, 0.7)], rivals=RIVALS, dense=4.2)
    root, text = drawn(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")}
    labels = {"optimal", "greedy", "uniform", "measured", "dense", "latency (ms)", "importance kept", "100%"}
    assert labels | {"Net on host"} <= words
    assert "#0" not in text.replace("#0b6bcb", ""), "placeholder colours are all replaced"
    for name in ("ink", "muted", "grid", "pruned"):
        assert f"--{name}:" in text
        assert f"var(--{name})" in text
    assert text == draw_frontier(data), "the same data gives the same file"


def test_names_cannot_break_out_of_the_drawing():
    root, _ = drawn(FrontierData('<b>&"$x$', EXACT, unit="cycles"))
    words = {"".join(e.itertext()).strip() for e in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {'<b>&"$x$', "latency (cycles)"} <= words
    assert "greedy" not in words
