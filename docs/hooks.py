"""MkDocs hook: a link that leaves docs/ is one on the site too.

A page links a script, a study or a table as `../FILE`, as GitHub reads it. What is linked so becomes a page of the site
below `source/`: Markdown as it is, code with its colours, a folder as the list of what it holds. A link to a file that
does not exist is left as it stands, so that the strict build finds it.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS, SOURCE = "docs/", "source/"  # folder of the pages in the repository, and of what they link on the site
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".txt": "text",
    ".slurm_template": "bash",
}  # other files stay as they are
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")  # neither an anchor alone nor an address
MANY = 100  # files of a folder, of which only the names are listed
FENCE = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link outside docs/, and what these link in turn."""
    root = Path(config.config_file_path).parent
    texts = [(DOCS + file.src_uri, Path(file.abs_src_path).read_text()) for file in files.documentation_pages()]
    for place, text in texts:  # grows
        for path in linked(place, text):
            uri = site_uri(root, path)
            if path.startswith(DOCS) or not (root / path).exists() or files.get_file_from_path(uri):
                continue
            how = {"inclusion": InclusionLevel.NOT_IN_NAV}
            if uri.endswith(".md"):
                texts.append((uri.removeprefix(SOURCE), shown(root, path)))
                files.append(File.generated(config, uri, content=texts[-1][1], **how))
            else:
                files.append(File.generated(config, uri, abs_src_path=str(root / path), **how))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ into links to what on_files() added."""
    root, uri = Path(config.config_file_path).parent, page.file.src_uri
    place = uri.removeprefix(SOURCE) if uri.startswith(SOURCE) else DOCS + uri
    if uri.startswith(SOURCE):
        page.meta |= {"search": {"exclude": True}, "hide": ["toc"]}

    def relinked(match: re.Match) -> str:
        path = joined(place, match[1])
        if (path.startswith(DOCS) and place.startswith(DOCS)) or not (root / path).exists():
            return match[0]
        return f"]({posixpath.relpath(site_uri(root, path), posixpath.dirname(uri) or '.')}{match[2] or ''})"

    parts = FENCE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(relinked, part) for i, part in enumerate(parts))


def linked(place: str, text: str) -> Iterator[str]:
    """The paths in the repository that a text, which stands at a place there, links."""
    for part in FENCE.split(text)[::2]:
        yield from (joined(place, match[1]) for match in LINK.finditer(part))


def joined(place: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def site_uri(root: Path, path: str) -> str:
    """Where a file or folder of the repository is on the site."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (root / path).is_dir():
        return f"{SOURCE}{path}/index.md"
    return f"{SOURCE}{path}.md" if Path(path).suffix in LANGUAGES else SOURCE + path


def shown(root: Path, path: str) -> str:
    """A file or folder of the repository as Markdown."""
    if (root / path).is_dir():
        names = sorted(
            each.name for each in (root / path).iterdir() if each.name[0] != "." and each.name != "__pycache__"
        )
        return "\n".join(
            [f"# {path}/", "", *(f"- [{name}]({name})" if len(names) <= MANY else f"- {name}" for name in names)]
        )
    text = (root / path).read_text()
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n`````{LANGUAGES[Path(path).suffix]}\n{text.rstrip()}\n`````\n"
