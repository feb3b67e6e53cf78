"""What MkDocs calls while it builds the site: pages that are made, links that leave docs/, and equations as MathML.

Pages link to each other and to files of the repository as GitHub wants it, relative to where they lie. In the site a
file outside of docs/ is a page where it is one of PAGES, and else a copy of it as text.
"""

import html
import posixpath
import re
from pathlib import Path

from api import api_pages
from configuration import configuration_page
from latex2mathml.converter import convert
from methods import BY_HAND, method_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["on_config", "on_files", "on_page_content", "on_page_markdown"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages outside of docs/ to their places in the site."""

AS_THEY_ARE = (".md", ".png", ".svg", ".webp", ".html", ".json", ".yaml")  # others, as .py, are shown with .txt behind
LINK = re.compile(r"(\]\()([\w./-]+)(#[\w-]+)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages that are made for mixers into the navigation: no list but conf/mixer/ names them."""
    (mixers,) = (entry["Mixers"] for entry in config.nav if "Mixers" in entry)
    (others,) = (entry for entry in mixers if "Others" in entry)
    others["Others"] = [{Path(place).stem: place} for place in method_pages()]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds pages that are made or lie elsewhere, and the files that any page links to."""
    made = {"configuration.md": configuration_page(), **method_pages(), **api_pages()}
    made |= {place: (ROOT / name).read_text(encoding="utf-8") for name, place in PAGES.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    for file in [file for file in files if file.is_documentation_page()]:
        for match in LINK.finditer(file.content_string):
            name = _target(file.src_uri, match[2])
            if (
                (ROOT / name).is_file()
                and _place(name).startswith("source/")
                and not files.get_file_from_path(_place(name))
            ):
                files.append(File.generated(config, _place(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the site; one to a folder, which the site has not, becomes its text."""
    here = page.file.src_uri
    if here == "mixers.md":
        markdown = re.sub(r"^\|[^|]+\|", _to_their_pages, markdown, flags=re.MULTILINE)
    return re.sub(
        r"(!?)\[([^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]\(([\w./-]+)(#[\w-]+)?\)", lambda m: _link(here, m), markdown
    )


def _to_their_pages(cell: re.Match[str]) -> str:
    """The first cell of a row of the table of mixers, its names as links."""
    pages = {Path(place).stem: place for place in method_pages()}
    pages |= {name: f"methods/{page}.md" for name, page in BY_HAND.items()}
    return re.sub(r"`(\w+)`", lambda m: f"[{m[0]}](../docs/{pages[m[1]]})" if m[1] in pages else m[0], cell[0])


def _link(here: str, match: re.Match[str]) -> str:
    picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    name = _target(here, target)
    if (ROOT / name).is_dir():
        if f"{name}/README.md" not in PAGES:
            return text
        name = f"{name}/README.md"
    place = posixpath.relpath(_place(name), posixpath.dirname(here) or ".")
    return f"{picture}[{text}]({place}{anchor})"


def _target(page: str, link: str) -> str:
    """What a page of the site links to, from the root of the repository."""
    lies_at = {place: name for name, place in PAGES.items()}.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(lies_at), link))


def _place(name: str) -> str:
    """Where the site has a file of the repository."""
    if name in PAGES:
        return PAGES[name]
    if name.startswith("docs/") and not name.startswith("docs/making/"):
        return name.removeprefix("docs/")
    return f"source/{name}" if name.endswith(AS_THEY_ARE[1:]) else f"source/{name}.txt"


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations as MathML, which browsers draw themselves: no script, and no network."""
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: _math(m, "inline"), content, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', lambda m: _math(m, "block"), content, flags=re.DOTALL
    )


def _math(match: re.Match[str], display: str) -> str:
    return convert(html.unescape(match[1]).strip(), display=display)
