"""Joins sources of this package into one script that needs nothing but Python.

The script on the device must measure exactly as hwprune does here, so it is made of the same
functions: starting from one of them, every definition that it uses is taken along, through all
modules of hwprune. Whatever would need another package is refused.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from hwprune.errors import CompileError

#: Definitions that are replaced on the way: (module, name) to (module, name).
Replacements = dict[tuple[str, str], tuple[str, str]]

_PACKAGE = __name__.partition(".")[0]
#: Names that are no definitions but always there.
_GIVEN = frozenset(dir(builtins)) | {"__file__", "__name__", "__doc__"}
#: Spellings that Python 3.8 does not have yet, and what it has.
_LATER = (
    (r",\s*strict=True\)", ")"),  # of zip(); only a mistake would show the difference
    (r"default_factory=(\w+)\[[^()]*?\](?=[,)])", r"default_factory=\1"),
)
_HINT = "what travels may use only the standard library of Python 3.8 and hwprune's own functions like that"


@dataclass
class _Source:
    """One module: its text, and what it defines and imports at top level."""

    name: str
    lines: list[str]
    definitions: dict[str, ast.stmt] = field(default_factory=dict[str, ast.stmt])
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict[str, tuple[str, str | None]])
    #: Definitions that travel, and under which name.
    taken: dict[str, str] = field(default_factory=dict[str, str])


def join_script(module: str, function: str, title: str, replaced: Replacements) -> str:
    """Source text of a script that calls ``module.function()``.

    Parameters
    ----------
    module, function
        Where the script begins.
    title
        Its docstring.
    replaced
        Definitions that another one stands for, because theirs need more than Python.

    Raises
    ------
    CompileError
        A definition needs a package other than hwprune and the standard library, two modules
        use one public name for different things, or a name has no definition.
    """
    joiner = _Joiner(replaced)
    joiner.need(module, function)
    text = joiner.text()
    # A docstring, not a comment: argparse and people find it.
    head = f'#!/usr/bin/env python3\n"""{title}"""\n\nfrom __future__ import annotations\n\n'
    return f'{head}{joiner.import_lines()}\n{text}\n\n\nif __name__ == "__main__":\n    {function}()\n'


class _Joiner:
    def __init__(self, replaced: Replacements) -> None:
        self._replaced = replaced
        self._sources: dict[str, _Source] = {}
        self._needs: dict[str, set[str]] = {}
        self._owners: dict[str, str] = {}
        self._imports: dict[str, tuple[str, str | None]] = {}
        self._aliases: dict[str, str] = {}

    def need(self, module: str, name: str) -> None:
        """Take a definition along, and all that it uses."""
        source = self._source(module)
        if name in source.taken:
            return
        if name not in source.definitions:
            raise CompileError(f"{module} has no definition of '{name}' that can travel", hint=_HINT)
        self._needs.setdefault(module, set())
        source.taken[name] = self._claim(name, module)
        used, annotations = _names(source.definitions[name])
        for other in sorted(used | annotations):
            self._use(source, other, annotation=other not in used)

    def text(self) -> str:
        """All definitions: a module behind those that it needs, each in its own order."""
        parts: list[str] = []
        ordered = {module: sorted(needs) for module, needs in sorted(self._needs.items())}
        for module in TopologicalSorter(ordered).static_order():
            source = self._sources[module]
            parts.append(f"\n\n# {'-' * 20} {module}\n")
            nodes = {id(node): node for name, node in source.definitions.items() if name in source.taken}
            parts.extend(_text(source, node) for node in sorted(nodes.values(), key=lambda n: n.lineno))
        # A function is called by such a name only once the script runs, when both are there.
        parts.extend(f"\n{name} = {other}" for name, other in sorted(self._aliases.items()))
        return "\n".join(parts)

    def import_lines(self) -> str:
        """Imports of the standard library, sorted."""
        lines: set[str] = set()
        for local, (module, name) in self._imports.items():
            line = f"import {module}" if name is None else f"from {module} import {name}"
            plain = module.partition(".")[0] if name is None else name
            lines.add(line if local == plain else f"{line} as {local}")
        return "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))

    def _use(self, source: _Source, name: str, *, annotation: bool) -> None:
        """Annotations are never evaluated; of them only what the standard library has is imported."""
        if name in source.definitions and not annotation:
            self.need(source.name, name)
        elif name in source.imports:
            module, attribute = source.imports[name]
            module, attribute = self._replaced.get((module, attribute or ""), (module, attribute))
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names:
                self._claim(name, top)
                self._imports[name] = (module, attribute)
            elif annotation:
                return
            elif top == _PACKAGE and attribute is not None:
                self._needs.setdefault(source.name, set()).add(module)
                self.need(module, attribute)
                if attribute != name:
                    self._claim(name, module)
                    self._aliases[name] = attribute
            else:
                raise CompileError(f"{source.name} needs {module}, which cannot travel", hint=_HINT)

    def _claim(self, name: str, module: str) -> str:
        """The name that a definition travels under: a private one may have to step aside."""
        owner = self._owners.setdefault(name, module)
        if owner == module:
            return name
        if not name.startswith("_"):
            raise CompileError(f"'{name}' is defined by {owner} and by {module}", hint="rename one of them")
        return self._claim(f"_{module.rpartition('.')[2]}{name}", module)

    def _source(self, module: str) -> _Source:
        if module not in self._sources:
            found = importlib.util.find_spec(module)
            if found is None or found.origin is None:
                message = f"the source of {module} was not found"
                raise CompileError(message, hint="install hwprune with its sources")
            self._sources[module] = _parse(module, Path(found.origin).read_text(encoding="utf-8"))
        return self._sources[module]


def _parse(module: str, text: str) -> _Source:
    source = _Source(module, text.splitlines())
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            source.definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                source.definitions[name] = node
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                source.imports[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                source.imports[local] = (alias.name, None)
    return source


def _names(definition: ast.stmt) -> tuple[set[str], set[str]]:
    """Names in a definition: those in code, and those in annotations."""
    annotations: set[str] = set()
    inside: set[int] = set()
    for node in ast.walk(definition):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.AST):
                found = [n for n in ast.walk(part) if isinstance(n, ast.Name)]
                annotations.update(n.id for n in found)
                inside.update(map(id, found))
    used = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and id(n) not in inside}
    return used - _GIVEN, annotations - _GIVEN


def _text(source: _Source, node: ast.stmt) -> str:
    """A definition as it stands in its file, with decorators and the comment above it."""
    assert node.end_lineno is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    while first > 1 and source.lines[first - 2].startswith("#"):
        first -= 1
    text = "\n".join(source.lines[first - 1 : node.end_lineno])
    for name, other in source.taken.items():
        if name != other:
            text = re.sub(rf"(?<![\w.]){name}(?!\w)", other, text)
    for later, earlier in _LATER:
        text = re.sub(later, earlier, text)
    gap = "" if isinstance(node, ast.Assign | ast.AnnAssign) else "\n\n"
    return gap + text
