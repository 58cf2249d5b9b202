"""One HTML page with every table, figure and verdict of a preset; it opens without a network."""

from pathlib import Path

from jinja2 import Environment, PackageLoader

from repro.errors import DataError
from repro.files import write_text


def write_report(folder: Path, path: Path) -> Path:
    """Write the page from a preset's tables, figures and check.md; return its path.

    Raises:
        DataError: there are no tables yet.
    """
    import pandas as pd
    from markdown_it import MarkdownIt

    from repro.tables import display

    tables = sorted((folder / "tables").glob("*.csv"))
    if not tables:
        raise DataError(f"no tables under {folder / 'tables'}: run `repro tables` first.")
    sections = []
    for table in tables:
        text = table.with_suffix(".md").read_text(encoding="utf-8")
        figures = sorted((folder / "figures").glob(f"{table.stem}-*.svg"))
        sections.append(
            {
                "name": table.stem,
                "table": display(pd.read_csv(table)).to_html(index=False, border=0),
                "caption": text.strip().splitlines()[-1],
                "figures": [_svg(figure) for figure in figures],
            }
        )
    markdown = MarkdownIt("commonmark").enable("table")
    check, trust = folder / "check.md", folder.parent / "trust"
    environment = Environment(loader=PackageLoader("repro"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.j2").render(
        preset=folder.name,
        sections=sections,
        check=markdown.render(_text(check)),
        trust=markdown.render(_text(trust / "trust.md")),
        trust_figures=[_svg(figure) for figure in sorted(trust.glob("*.svg"))],
    )
    write_text(path, page + "\n")
    return path


def _text(path: Path) -> str:
    # Without the heading, which the page has itself.
    text = path.read_text(encoding="utf-8") if path.exists() else "# \nnot run\n"
    return text.partition("\n")[2]


def _svg(path: Path) -> str:
    # Inline: from the <svg> tag on, without the XML declaration and the address of its DTD.
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
