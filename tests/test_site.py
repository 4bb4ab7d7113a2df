"""The site (make docs): its strict build passes, its links lead somewhere, and a broken one would end it."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1"}


def build(project: Path, site: Path) -> subprocess.CompletedProcess:
    """What make docs runs."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(project / "mkdocs.yml")]
    return subprocess.run([*command, "--site-dir", str(site)], env=ENVIRONMENT, capture_output=True, text=True)


class Html(HTMLParser):
    """Links, anchors and the text of paragraphs of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.anchors, self.paragraphs, self.inside = [], [], set(), [], False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.loaded += [found.get("src") or found.get("href") for _ in "x" if tag in ("script", "link", "img")]
        if tag == "p":
            self.inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        if self.inside:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Html]:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return {path: Html(path) for path in folder.rglob("*.html")}


def test_every_page_is_on_the_site(site):
    names = {path.name for path in site}
    assert names >= {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert "guided_sac_continuous.py.html" in names and not any("hooks" in name for name in names)


def test_links_of_the_site_lead_somewhere(site):
    """Read from the built pages: each relative link is a file of the site, each anchor an id in it."""
    count = 0
    for path, page in site.items():
        for link in filter(None, page.links):
            scheme, host, place, _, anchor = urlsplit(link)
            if scheme or host or path.name == "404.html":  # whose links are those of a site at a server's root
                continue
            target = (path.parent / unquote(place)).resolve() if place else path
            assert target.exists(), (path, link)
            if anchor and target.suffix == ".html" and not anchor.startswith("__"):
                assert unquote(anchor) in site[target].anchors, (path, link)
                count += 1
    assert count > 100


def test_the_site_loads_nothing_from_elsewhere(site):
    for path, page in site.items():
        assert not [link for link in filter(None, page.loaded) if urlsplit(link).netloc], path


def test_tables_and_lists_are_read_as_on_github(site):
    """Markdown that only GitHub knows, such as a list right below a line, would stay in a paragraph."""
    pages = {path: page for path, page in site.items() if "source" not in path.parts}
    assert sum(len(page.paragraphs) for page in pages.values()) > 100
    for path, page in pages.items():
        for paragraph in page.paragraphs:
            assert not re.search(r"^\s*([-*] |\d+\. |\|.*\|$)|```", paragraph, re.MULTILINE), (path.name, paragraph)


def test_a_broken_link_ends_the_build(tmp_path):
    """A page, a file outside docs/, an anchor here and there that do not exist, and a page that the site leaves out."""
    settings = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: [index.md]\n")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "hooks.py").write_text((ROOT / "docs" / "hooks.py").read_text())
    (tmp_path / "table.md").write_text("# A table\n\n[a script](script.py), [back](docs/index.md#a-page)\n")
    (tmp_path / "script.py").write_text('print("`](nowhere)`")\n')
    good = "# A page\n\n[table](table.md), [it](../table.md#a-table), [script](../script.py), [here](#a-page)\n"
    (docs / "index.md").write_text(good.replace("[table](table.md), ", ""))
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "print" in (tmp_path / "site" / "source" / "script.py.html").read_text()

    broken = ["table.md", "../missing.py", "#nowhere", "../table.md#nowhere"]
    (docs / "index.md").write_text(good + "".join(f"[x]({link})\n" for link in broken[1:]))
    (docs / "left_out.md").write_text("# Left out\n")
    done = build(tmp_path, tmp_path / "broken")
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    for link in ("'table.md'", "'../missing.py'", "'#nowhere'", "table.md#nowhere'"):
        assert any(link in line for line in warnings), (link, done.stderr)
    assert "left_out.md" in done.stderr
