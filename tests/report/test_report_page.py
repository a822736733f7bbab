"""The page: valid and self-contained, complete, escaped, and written whole or not at all."""

from __future__ import annotations

import builtins
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hwprune.errors import MissingExtraError, ReportError
from hwprune.report.data import Accuracy, GroupRow, KernelRow, LedgerRow, Measurement, ReportData, read_report
from hwprune.report.page import render, write_report
from tests.report.samples import least, network

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "wbr"}
OPTIONAL_SECTIONS = {"comparison", "widths", "kernels", "staircases", "accuracy", "solver", "ledger"}


class Reader(HTMLParser):
    """Checks nesting and gathers what the tests ask about."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\u00a0", " "))

    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]


@pytest.fixture(scope="module")
def small() -> ReportData:
    return network(15, 22)


@pytest.fixture(scope="module")
def page(small: ReportData) -> Reader:
    return Reader(render(small))


@pytest.mark.parametrize(
    "data", [least(), network(15, 22), network(60, 200)], ids=["least", "small", "large"]
)
def test_page_is_valid_and_needs_nothing_from_outside(data: ReportData) -> None:
    html = render(data)
    reader = Reader(html)
    assert html.startswith("<!DOCTYPE html>")
    assert reader.tags["script"] == 0 and reader.tags["link"] == 0 and reader.tags["img"] == 0
    assert reader.tags["style"] == 1, "a style element inside a drawing would apply to the whole page"
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href", "data", "action", "srcset", "poster"}:
            assert value.startswith("#"), (tag, name, value)
        assert "http" not in value, (tag, name, value)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert "<?xml" not in html and "<!DOCTYPE svg" not in html


def test_ids_are_unique_and_references_resolve(page: Reader) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, n, v in page.attributes if n == "xlink:href"}
    used |= {m for _, _, v in page.attributes for m in re.findall(r"url\(#([^)]*)\)", v)}
    assert used, "the drawings clip at least once"
    assert used <= set(ids)


def test_drawings_take_their_colours_from_the_page(small: ReportData, page: Reader) -> None:
    styles = " ".join(v for _, n, v in page.attributes if n in {"style", "fill", "stroke"})
    assert "var(--dense)" in styles and "var(--pruned)" in styles and "var(--ink)" in styles
    assert re.findall(r"#[0-9a-f]{6}\b", styles) == []
    assert page.tags["svg"] == 5 + len(small.staircases)
    labels = [v for t, n, v in page.attributes if t == "svg" and n == "aria-label"]
    assert len(labels) == page.tags["svg"] and all(labels)


def test_every_number_appears_with_its_unit_and_kind(small: ReportData, page: Reader) -> None:
    text = page.text
    for expected in (
        "dense measured 4.00 ms 3.96–4.04 ms",
        "dense predicted 3.91 ms none",
        "pruned predicted 1.87 ms none",
        "pruned measured 1.90 ms 1.88–1.92 ms",
        "budget asked “50%” 2.00 ms",
        "Speed-up 2.11×",
        "PyTorch eager dense 6.31 ms 6.10–6.72 ms 3.32×",
        "ONNX Runtime pruned 2.02 ms 1.99–2.06 ms 1.06×",
        "after recalibration 94.2 %",
        "−0.3 points against dense",
        "2.4 × 10⁻⁶",
        "Optimality gap 0.08 % (proven)",
        "14.732 (sum of scores)",
        "Time 0.42 s",
        "Variables 1,312",
        "profile 3 min 04 s",
        "head.weight 10 output of the network",
        "features.3.conv2 alignment exempt: feeds a pixel shuffle, 21 units 21 64 16 100.0 %",
        "Threads 1",
        "Medians, measured.",
        "Fused kernels in execution order, measured.",
    ):
        assert expected in text, expected
    for group in small.groups:
        share = f"{100 * (group.importance_kept or 0):.1f} %"
        assert re.search(
            rf"{re.escape(group.name)}\s.*?{group.kept} {group.dense} {group.multiple} {share}", text
        )
    for kernel in small.kernels:
        pruned = "gone" if kernel.pruned_us is None else "µs"
        row = rf"{kernel.name} {re.escape(kernel.label)} [\d.,]+ µs (?:[\d.]+ )?{pruned} [\d.]+ %"
        assert re.search(row, text), kernel.name
    for key, value in small.provenance.items():
        assert f"{key} {value}" in text
    for s in small.staircases:
        for width, value in zip(s.widths, s.latency_us, strict=True):
            digits = 2 if value < 10 else 1 if value < 100 else 0
            assert f"{s.label} {width} {value:.{digits}f} µs" in text


def test_kernel_sums_are_those_of_the_rows(small: ReportData, page: Reader) -> None:
    assert f"{sum(k.dense_us for k in small.kernels):,.0f} µs" in page.text
    assert f"{sum(k.pruned_us or 0 for k in small.kernels):,.0f} µs" in page.text
    kept, dense = sum(g.kept for g in small.groups), sum(g.dense for g in small.groups)
    assert f"{kept:,} of {dense:,} channels stay" in page.text


def test_missing_parts_leave_no_trace() -> None:
    reader = Reader(render(least()))
    assert OPTIONAL_SECTIONS.isdisjoint(reader.ids())
    assert {"latency", "provenance"} <= set(reader.ids())
    for word in ("None", "nan", "Accuracy", "gone", "Optimality", "arning", "Speed-up"):
        assert word not in reader.text, word
    full = set(Reader(render(network(4, 6))).ids())
    assert full >= OPTIONAL_SECTIONS


def test_dense_only_profile_has_no_pruned_column(small: ReportData) -> None:
    rows = tuple(k.model_copy(update={"pruned_us": None}) for k in small.kernels)
    text = Reader(render(small.model_copy(update={"kernels": rows, "staircases": ()}))).text
    assert "gone" not in text and "pruned, sum" not in text


def test_hostile_names_stay_text(small: ReportData) -> None:
    evil = "<script>alert('x')</script>\"><img src=http://e.x/y onerror=z> $\\frac{1}{$ {{ 7*7 }} 模型"
    stairs = small.staircases[0].model_copy(update={"label": evil, "group": evil})
    data = small.model_copy(
        update={
            "title": evil,
            "model": evil,
            "warnings": (evil,),
            "groups": tuple(g.model_copy(update={"name": evil, "exempt": evil}) for g in small.groups),
            "kernels": tuple(k.model_copy(update={"name": evil, "label": evil}) for k in small.kernels),
            "staircases": (stairs,),
            "contenders": tuple(c.model_copy(update={"name": evil}) for c in small.contenders),
            "ledger": (LedgerRow(name=evil, channels=1, reason=evil),),
            "provenance": {evil: evil, "device": evil},
        }
    )
    html = render(data)
    reader = Reader(html)
    assert reader.tags["script"] == 0 and reader.tags["img"] == 0
    assert "<script" not in html
    assert reader.text.count("{{ 7*7 }}") > 40
    assert "49" not in [word.strip() for word in reader.words]


def test_mixed_kinds_are_told_apart_in_every_row(small: ReportData) -> None:
    first, *rest = small.kernels
    entrant, *others = small.contenders
    data = small.model_copy(
        update={
            "kernels": (first.model_copy(update={"kind": "predicted"}), *rest),
            "contenders": (entrant, *(c.model_copy(update={"kind": "simulated"}) for c in others)),
        }
    )
    text = Reader(render(data)).text
    assert "execution order, predicted and measured." in text
    assert re.search(rf"{first.name}.{{0,90}}% predicted {2} ", text)
    assert "dense (TVM) simulated 4.00 ms" in text and "pruned (this bundle) measured 1.90 ms" in text


@pytest.mark.filterwarnings("error")
def test_odd_but_valid_data_is_drawn(small: ReportData) -> None:
    one = small.staircases[0].model_copy(
        update={
            "widths": (8,),
            "latency_us": (0.0,),
            "low": (0.0,),
            "high": (0.0,),
            "chosen": 0,
            "dense": 700,
        }
    )
    data = small.model_copy(
        update={
            "budget_ms": 5000.0,
            "measured": Measurement.exact(2e-5, "measured"),
            "accuracy": Accuracy(dataset="all right", dense=1.0, after_pruning=1.0),
            "contenders": small.contenders[:1],
            "kernels": (KernelRow(name="名" * 300, label="", dense_us=0.0, share=0.0),),
            "groups": (GroupRow(name="g" * 300, dense=4096, kept=0), GroupRow(name="h", dense=1, kept=1)),
            "staircases": (one,),
        }
    )
    text = Reader(render(data)).text
    assert "2.0 × 10⁻⁵ ms" in text and "5,000 ms" in text and "100.0 %" in text


def test_more_than_six_staircases_fold(small: ReportData) -> None:
    many = tuple(small.staircases[0].model_copy(update={"label": f"layer {i}"}) for i in range(9))
    reader = Reader(render(small.model_copy(update={"staircases": many})))
    assert "3 more layers" in reader.text
    assert all(f"layer {i} " in reader.text for i in range(9))
    assert len(reader.ids()) == len(set(reader.ids()))


def test_warnings_come_before_the_cards(small: ReportData) -> None:
    text = Reader(render(small.model_copy(update={"warnings": ("turbo is on", "old table")}))).text
    assert text.index("2 warnings") < text.index("turbo is on") < text.index("Latency, pruned")


def test_json_round_trip_and_replacement(tmp_path: Path, small: ReportData) -> None:
    directory = tmp_path / "new" / "reports"
    write_report(least(), directory)
    page = write_report(small, directory)
    assert page == directory / "report.html"
    assert read_report(directory / "report.json") == small
    assert page.read_text(encoding="utf-8") == render(small)
    assert sorted(p.name for p in directory.iterdir()) == ["report.html", "report.json"]


def test_unwritable_directory_is_named_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ReportError, match=r"file/reports") as caught:
        write_report(least(), tmp_path / "file" / "reports")
    assert caught.value.hint
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(ReportError):
        write_report(least(), tmp_path / "taken")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["report.html"]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_extra_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=rf"(?s){package}.*pip install hwprune\[report\]"):
        write_report(least(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_report_loads_no_plotting() -> None:
    import subprocess
    import sys

    code = "import sys, hwprune.report.page; print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
