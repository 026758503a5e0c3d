"""MkDocs hook that brings the repository's own files into the site, so that nothing is written twice.

A line that is only a link out of docs/ is replaced by what it points to: a Markdown file without its title, or a source
file. On a forge it stays a link.
Any other file that is linked to is copied into the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LONE_LINK = re.compile(r"^\[[^\]]*\]\(\.\./([^)#]+)\)$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^):#\s]*)(#[^)]*)?(?=\))")
LANGUAGES = {".cpp": "cpp", ".txt": "cmake"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages, once filled in, link to outside docs/."""
    homes = {}
    for page in files.documentation_pages():
        for file in LONE_LINK.findall(page.content_string):
            homes[file] = page.src_uri
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


def fill(text: str, homes: dict[str, str]) -> str:
    """Return a page's text with its lone links replaced and the links out of docs/ turned into ones in the site."""

    def included(found: re.Match[str]) -> str:
        name = found[1]
        path = ROOT / name
        content = path.read_text(encoding="utf-8")
        if path.suffix != ".md":
            return f'```{LANGUAGES[path.suffix]} title="{name}"\n{content}```'
        here = homes[name]
        return LINK.sub(lambda link: _moved(link, name, here, homes), content.partition("\n")[2].strip())

    # GitHub wants pipes within a table's code escaped, Python-Markdown shows the backslash.
    text = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), LONE_LINK.sub(included, text))
    return LINK.sub(lambda link: f"files/{link[0][3:]}" if link[0].startswith("../") else link[0], text)


def _moved(link: re.Match[str], name: str, here: str, homes: dict[str, str]) -> str:
    """Return where a link of an included file leads from the page `here`."""
    target, anchor = link.groups(default="")
    file = (Path(name).parent / target).as_posix() if target else name
    if file in homes:
        page = homes[file]
        return anchor if page == here else f"{page}{anchor}"
    if file.startswith("docs/"):
        return f"{file.removeprefix('docs/')}{anchor}"
    return f"files/{file}"
