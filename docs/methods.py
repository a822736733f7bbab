"""Writes ``docs/methods.md`` from what criteria and repairs say of themselves.

python -m docs.methods            # writes the page
python -m docs.methods --check    # exit code 1 if the page is not what would be written
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docs.entries import REPAIRS, WIDTHS
from hwprune.importance import Description, descriptions
from hwprune.importance.description import ORIGINS

PAGE = Path(__file__).with_name("methods.md")
_COMPARABLE = {
    "global": "between all groups",
    "normalised": "between groups once each is divided by its mean",
    "within_group": "inside a group only",
}
_INTRODUCTION = """\
# Methods

Written by `python -m docs.methods` from the classes themselves; a test keeps the two equal.
`hwprune inspect --criteria` prints the same; in Python it is `hwprune.importance.descriptions()`.

Where a method is called *our reading of the abstract*, its paper could not be read in full, and the
formula is ours. All methods work on whole groups: everything that can only be removed together (the
layers of a residual stage, a depthwise convolution and the one before it) is scored together. A unit is
what goes as one: a channel, an attention head, the same position of every group of a grouped convolution.

With labelled data `taylor2019` is the default, without data `lamp`: the best of their kind in
`python -m bench.criteria`, whose figures are in the README.
"""


def page() -> str:
    """The whole page, as Markdown."""
    criteria = descriptions()
    parts = [_INTRODUCTION, "## Criteria\n", _overview(criteria)]
    parts += [_block(each) for each in criteria]
    parts += ["## Repairs\n", "What brings accuracy back after the cut, the cheapest first.\n"]
    parts += [_block(repair.description) for repair in REPAIRS]
    parts += [
        "## Widths\n",
        "Other ways than the solver's to find, or to judge, how much stays of a group.\n",
    ]
    parts += [_block(each.description) for each in WIDTHS]
    return "\n".join(parts)


def _overview(found: tuple[Description, ...]) -> str:
    lines = ["| criterion | data | scores compare | whose method |", "|---|---|---|---|"]
    for each in found:
        comparable, origin = _COMPARABLE[each.comparability], ORIGINS[each.origin]
        lines.append(f"| [`{each.name}`](#{each.name}) | {each.data_need} | {comparable} | {origin} |")
    return "\n".join(lines) + "\n"


def _block(each: Description) -> str:
    text = f"{each.summary}\n\n{each.details}" if each.details else each.summary
    lines = [f"### {each.name}\n", _plain(text) + "\n"]
    lines.append(f"- {'Score' if each.comparability else 'Formula'}: {_plain(each.formula)}")
    source = f"{_plain(each.paper)}: {ORIGINS[each.origin]}" if each.paper else ORIGINS[each.origin]
    lines.append(f"- Source: {source}")
    lines.append(f"- Data: {each.data_need}. Cost: {_plain(each.cost)}")
    if each.comparability:
        lines.append(f"- Scores compare {_COMPARABLE[each.comparability]}")
    if each.parameters:
        given = ", ".join(f"`{name}={value!r}`" for name, value in each.parameters.items())
        lines.append(f"- Parameters: {given}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Code marks of docstrings as those of Markdown; nothing else may look like markup."""
    pieces = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"``\1``", text).split("``")
    prose = [p.replace("*", "\\*").replace("_", "\\_").replace("|", "\\|") for p in pieces[::2]]
    out = [prose[0]]
    for code, after in zip(pieces[1::2], prose[1:], strict=True):
        out += [f"`{code}`", after]
    return "".join(out)


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    text = page()
    if "--check" in arguments:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
