"""Hooks of MkDocs that add pages from outside docs/, and convert all pages for the site."""

from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from documentation.markdown import (
    DOCS,
    ROOT,
    ROOT_PAGES,
    github_lists,
    inline_pictures,
    site_links,
    table_bars,
)
from documentation.reference.pages import REFERENCE_PAGES, reference_table

HOME = "README.md"
WORKER_URL = "https://unpkg.com/iframe-worker/shim"  # which the theme loads for the search of a folder
WORKER_FILE = "javascripts/iframe_worker.js"
GUIDES = "How to"  # the part of the navigation for pages that mkdocs.yml does not name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that mkdocs.yml does not name to the navigation."""
    named = set(_page_names(config.nav))
    pages = (file.relative_to(DOCS).as_posix() for file in sorted(DOCS.rglob("*.md")))
    omitted = [page for page in pages if page not in named]
    (guides,) = (entry[GUIDES] for entry in config.nav or [] if GUIDES in entry)
    guides += omitted
    return config


def _page_names(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry or []
    return [name for part in parts for name in _page_names(part)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root folder and the generated ones."""
    for name in ROOT_PAGES:
        page = File.generated(config, name, content=(ROOT / name).read_text())
        page.dest_uri = "index.html" if name == HOME else name.replace(".md", ".html").lower()
        files.append(page)
    for name, generate in REFERENCE_PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=generate()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the Markdown of a page for the site."""
    name = page.file.src_uri
    if name == "reference/index.md":
        markdown += "\n\n" + reference_table()
    source = name if name in ROOT_PAGES else str(PurePosixPath("docs") / name)
    if page.file.generated_by and name not in ROOT_PAGES:
        return markdown
    return table_bars(github_lists(site_links(inline_pictures(markdown, source), source)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Remove scripts from other hosts from the page."""
    return output.replace(WORKER_URL, get_relative_url(WORKER_FILE, page.url))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Remove scripts from other hosts from a page of the theme, such as 404.html."""
    return output_content.replace(WORKER_URL, WORKER_FILE)
