"""MkDocs hook that brings the repository's own files into the site, so that nothing is written twice.

A line that is only a link out of docs/ is replaced by what it points to: a section of a Markdown file (its own
text, without its subsections), a whole Markdown file without its title, or a source file. On a forge it stays a link.
Any other file that is linked to is copied into the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LONE_LINK = re.compile(r"^\[[^\]]*\]\(\.\./([^)#]+)(?:#([^)]+))?\)$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^):#\s]*)(#[^)]*)?(?=\))")
LANGUAGES = {".cpp": "cpp", ".txt": "cmake"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages, once filled in, link to outside docs/."""
    homes = {}
    for page in files.documentation_pages():
        for file, anchor in LONE_LINK.findall(page.content_string):
            homes[file, anchor] = page.src_uri
    for page in files.documentation_pages():
        text = fill(page.content_string, homes)
        for target, _ in LINK.findall(text):
            name = target.removeprefix("files/")
            if name != target and files.get_file_from_path(target) is None:
                if not (ROOT / name).is_file():
                    raise PluginError(f"{page.src_uri} links to {name}, which is not there")
                files.append(File.generated(config, target, abs_src_path=str(ROOT / name)))
        page.content_string = text
    return files


def fill(text: str, homes: dict[tuple[str, str], str]) -> str:
    """Return a page's text with its lone links replaced and the links out of docs/ turned into ones in the site."""

    def included(found: re.Match[str]) -> str:
        name, anchor = found.groups(default="")
        path = ROOT / name
        content = path.read_text(encoding="utf-8")
        if path.suffix != ".md":
            return f'```{LANGUAGES[path.suffix]} title="{name}"\n{content}```'
        part = section(content, anchor) if anchor else content.partition("\n")[2]
        if part is None:
            raise PluginError(f"{name} has no section #{anchor}")
        # GitHub wants pipes within a table's code escaped, Python-Markdown shows the backslash.
        part = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), part)
        here = homes[name, anchor]
        return LINK.sub(lambda link: _moved(link, name, here, homes), part.strip())

    text = LONE_LINK.sub(included, text)
    return LINK.sub(lambda link: f"files/{link[0][3:]}" if link[0].startswith("../") else link[0], text)


def section(text: str, anchor: str) -> str | None:
    """Return the text between a heading and the next of any level; None where there is no such heading."""
    parts = [*_sections(text)]
    return next((body for slug, body in parts if slug == anchor), None)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    slug, lines, fenced = "", list[str](), False
    for line in text.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if not fenced and (heading := re.match(r"#+ (.*)", line)):
            yield slug, "".join(lines)
            slug, lines = re.sub(r"[^\w -]", "", heading[1]).lower().replace(" ", "-"), []
        else:
            lines.append(line)
    yield slug, "".join(lines)


def _moved(link: re.Match[str], name: str, here: str, homes: dict[tuple[str, str], Any]) -> str:
    """Return where a link of an included file leads from the page `here`."""
    target, anchor = link.groups(default="")
    file = (Path(name).parent / target).as_posix() if target else name
    if (file, anchor[1:]) in homes:
        page = homes[file, anchor[1:]]
        return anchor if page == here else f"{page}{anchor}"
    if file.startswith("docs/"):
        return f"{file.removeprefix('docs/')}{anchor}"
    return f"files/{file}"
