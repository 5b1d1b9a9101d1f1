"""A hook of MkDocs: brings documents from outside docs/ into the site, checks links to source files, lists settings.

The Markdown files link to each other and to source files by relative paths, so that they can be read in a checkout. On
the site, links to documents lead to their pages, and links to source files become their paths; a link to a file that
does not exist is a warning, which ``strict`` turns into an error.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import SecretStr
from shoal.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "shared/shoal/store/FORMAT.md": "format.md",
}
"""Documents of the repository that become pages: path in the repository, path on the site."""
SETTINGS_MARK = "<!-- settings -->"
LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")

log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each relative link to its page, or show the path of the source file that it names."""
    here = page.file.src_uri
    source = next((ROOT / path for path, uri in PAGES.items() if uri == here), ROOT / "docs" / here)

    def rewrite(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            log.warning("%s links to %s, which does not exist", source.relative_to(ROOT), target)
            return link[0]
        inside = path.relative_to(ROOT).as_posix()
        if path.is_dir() and (path / "index.md").is_file():
            inside += "/index.md"
        uri = PAGES.get(inside, inside.removeprefix("docs/") if inside.startswith("docs/") else None)
        if uri is None:
            return link["text"] if inside in link["text"] else f"{link['text']} (`{inside}`)"
        return f"{link['mark']}[{link['text']}]({os.path.relpath(uri, Path(here).parent)}{link['anchor'] or ''})"

    return LINK.sub(rewrite, markdown).replace(SETTINGS_MARK, settings_table())


def settings_table() -> str:
    """Each environment variable with its default and meaning, as a Markdown table."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for field in Settings.model_fields.values():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = "" if default in (None, frozenset()) else f"`{default}`"
        lines.append(f"| `{field.validation_alias}` | {shown} | {field.description or ''} |")
    return "\n".join(lines)
