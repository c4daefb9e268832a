"""The text of the page: escaped, self-contained, complete and reproducible."""

import re
from html.parser import HTMLParser

import pytest
from report_files import contents

from raykd.report.build import build


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(two_families) -> str:
    return two_families.page.read_text(encoding="utf-8")


def test_names_with_markup_are_escaped(page):
    tags = {tag for tag, _ in Tags(page).tags}
    assert tags.isdisjoint({"script", "img", "i", "u", "s", "iframe", "object", "link"})
    text = Tags(page).text
    for hostile in ("v<i>t", "<script>alert(1)</script> & [31mred second line", "<b>2</b>", "<img src=x>"):
        assert hostile in text
    assert "\x1b" not in page


def test_the_page_loads_nothing(page):
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert all("src" not in attributes and "srcset" not in attributes for _, attributes in Tags(page).tags)
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}
    assert "default-src 'none'" in page


def test_every_link_has_a_target(page, two_families):
    attributes = [attributes for _, attributes in Tags(page).tags]
    ids = [attribute["id"] for attribute in attributes if "id" in attribute]
    assert len(ids) == len(set(ids))
    for href in (attribute["href"] or "" for attribute in attributes if "href" in attribute):
        if href.startswith("#"):
            assert href[1:] in ids
        else:
            assert (two_families.page.parent / href).resolve().exists()
    for labels in (attribute["aria-labelledby"] or "" for attribute in attributes if "aria-labelledby" in attribute):
        assert set(labels.split()) <= set(ids)


def test_the_page_has_numbers_interval_verdict_and_missing_runs(page):
    text = " ".join(Tags(page).text.split())
    for passage in (
        "88.00 ± 1.00",
        "+1.17 points",
        "95 % interval [+0.45, +1.88], standard deviation 0.29",
        "Distilled is better at n = 3.",
        "3 of 3 seeds in favor of distillation.",
        "One seed: no interval.",
        "baseline-net-s1-ab12: not evaluated",
        "distilled-net-s1-ab12: interrupted: 3 epochs recorded",
        "distilled-net-s2-<img src=x>: not started",
        "10 of 14 planned runs evaluated",
    ):
        assert passage in text


def test_the_same_folders_make_the_same_bytes(results):
    results.family("cnn", [95.0], [87.0, 88.0], [88.5, 89.0])
    build(results.root)
    first = contents(results.root)
    build(results.root)
    assert contents(results.root) == first


def test_a_family_without_runs_has_a_page(results):
    results.plan("cnn", teacher=["teacher-net-s0-ab12"], baseline=[], distilled=[])
    text = Tags(build(results.root).page.read_text(encoding="utf-8")).text
    assert "teacher-net-s0-ab12: not started" in text
    assert "No seed has both" in text
