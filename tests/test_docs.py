"""Documentation: its links lead somewhere, its Python runs, and the site is built and read without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from d2rl.common.command_line import own_keys
from d2rl.config.key_use import refuse_unused

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w./-])((?:d2rl|tests|benchmarks|examples)/[\w./-]*\.\w+)")
YOURS = {"d2rl/training/callbacks/mine.py"}  # what the pages ask a reader to write


class Resources(HTMLParser):
    """What a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    links = [one.partition("#")[0] for one in LINK.findall(text) if not one.startswith(("http", "#", "mailto:"))]
    assert [one for one in links if not (page.parent / one).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page):
    named = set(NAMED.findall(page.read_text())) - YOURS
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_tests_that_the_first_week_names_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs/first_week.md").read_text()))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_evaluations_that_the_pages_name_are_accepted():
    text = "\n".join(page.read_text() for page in PAGES)
    asked = [own_keys(found.split(), "d2rl-eval")[1] for found in re.findall(r"d2rl-eval (ckpt=\w[^`|;#\n]*)", text)]
    assert len(asked) > 15
    for keys in asked:
        refuse_unused("eval", keys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_python_of_the_library_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = [code for language, code in FENCE.findall((ROOT / "docs/library.md").read_text()) if language == "python"]
    space: dict[str, object] = {}
    for part in code:
        exec(part, space)
    precoder = space["precoder"]
    assert precoder.shape == (5, 8, 6)


@pytest.mark.slow
def test_the_site_is_built_strictly_and_read_without_a_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text())
        assert [one for one in resources.found if one.startswith(("http", "//"))] == [], page
    method = (tmp_path / "site/method.html").read_text()
    assert "<math" in method
    assert "$`" not in method
    assert "Noise-normalised channels of B states" in (tmp_path / "site/reference/wireless.html").read_text()
