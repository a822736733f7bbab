"""The report as one self-contained HTML page, and the same as JSON."""

from __future__ import annotations

import os
from pathlib import Path

from hwprune.errors import MissingExtraError, ReportError
from hwprune.report import words
from hwprune.report.data import ReportData
from hwprune.report.view import context


def write_report(data: ReportData, directory: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into ``directory`` (made if missing).

    Both are rendered before either is written, and each replaces its predecessor at once, so that
    no reader ever sees half a file.

    Returns
    -------
    Path
        The HTML page.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    ReportError
        The directory cannot be written.
    """
    page = directory / "report.html"
    contents = {page: render(data), directory / "report.json": data.model_dump_json(indent=2) + "\n"}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            _replace(path, text)
    except OSError as error:
        raise ReportError(
            f"the report cannot be written to {directory}: {error.strerror or error}",
            hint="choose a directory that you may write to and that has space left",
        ) from error
    return page


def render(data: ReportData) -> str:
    """The page as HTML; no script, no outside resource.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "the report needs jinja2, which is not installed", hint="pip install hwprune[report]"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        ms=words.ms,
        us=words.us,
        seconds=words.seconds,
        percent=words.percent,
        times=words.times,
        number=words.number,
        count=words.count,
        css=_css,
    )
    return environment.get_template("template.html").render(context(data))


def _css(value: float) -> str:
    return f"{value:.2f}"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
