"""The text of the page: escaped, self-contained, complete and reproducible."""

import hashlib
import html
import re
from base64 import b64encode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from report_files import contents

from raykd.report import render
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
    tags = [tag for tag, _ in Tags(page).tags]
    assert tags.count("script") == 1, "the one of the tables"
    assert set(tags).isdisjoint({"img", "i", "u", "s", "iframe", "object", "link"})
    text = Tags(page).text
    for hostile in ("v<i>t", "<script>alert(1)</script> & [31mred second line", "<b>2</b>", "<img src=x>"):
        assert hostile in text
    assert "\x1b" not in page


def test_the_only_script_that_may_run_is_the_one_of_the_package(page):
    """The policy of the page allows a script by the hash of its text."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script == (Path(render.__file__).parent / "tables.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_page_loads_nothing(page):
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert all("src" not in attributes and "srcset" not in attributes for _, attributes in Tags(page).tags)
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}
    assert "default-src 'none'" in page


def test_headings_never_skip_a_level(page, one_search):
    for text in (page, one_search.searches[0].page.read_text(encoding="utf-8")):
        levels = [int(tag[1]) for tag, _ in Tags(text).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(level <= before + 1 for before, level in pairwise(levels))


def test_a_metric_with_a_hyphen_is_never_broken_across_lines(page, one_search):
    """In the text of the page; figures and the title are not broken."""
    for text in (page, one_search.searches[0].page.read_text(encoding="utf-8")):
        without = re.sub(
            r"<(style|script|svg|title)\b.*?</\1>|<span class=\"whole\">top-\d</span>", "", text, flags=re.DOTALL
        )
        assert '<span class="whole">top-1</span>' in text
        assert not re.findall(r"top-\d", re.sub("<[^>]*>", "", without))
    assert ".whole { white-space: nowrap; }" in page


def test_every_link_has_a_target(page, two_families):
    attributes = [attributes for _, attributes in Tags(page).tags]
    ids = [attribute["id"] for attribute in attributes if "id" in attribute]
    assert len(ids) == len(set(ids))
    for href in (attribute["href"] or "" for attribute in attributes if "href" in attribute):
        if href.startswith("#"):
            assert href[1:] in ids
        else:
            assert (two_families.page.parent / unquote(href)).resolve().exists()
    for labels in (attribute["aria-labelledby"] or "" for attribute in attributes if "aria-labelledby" in attribute):
        assert set(labels.split()) <= set(ids)


def test_the_page_has_numbers_interval_verdict_and_missing_runs(page):
    text = " ".join(Tags(page).text.split())
    for passage in (
        "88.00 ± 1.00",
        "+1.17 points",
        "95 % interval [+0.45, +1.88], standard deviation 0.29",
        "Distilled is better at n = 3.",
        "Over 3 seeds, one teacher and one test split. It does not cover other teachers or images.",
        "One test image is 1.00 points.",
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


def test_a_run_links_to_its_folder_unless_it_has_not_started(page):
    links = [attributes["href"] or "" for tag, attributes in Tags(page).tags if tag == "a"]
    assert "../cnn/distilled-net-s2-ab12/" in links
    assert "../v%3Ci%3Et/baseline-net-s2-ab12/" in links
    assert not [link for link in links if "img" in link]


def origin_of(page: Path) -> str:
    """Return the text at the top of a page about its newest run, commands and revisions."""
    content = page.read_text(encoding="utf-8").split('<details class="origin">')[1].split("</details>")[0]
    return html.unescape(" ".join(re.sub("<[^>]*>", " ", content).split()))


def test_the_top_of_the_page_has_the_newest_run_the_commands_and_the_revisions(results):
    names = [
        results.run("cnn", "baseline", 0, 80.0, ended="2026-03-01T00:30:00+02:00"),
        results.run("cnn", "baseline", 1, 80.0, ended="2026-02-28T22:59:59+00:00", git={"revision": "fedcba"}),
        results.run("cnn", "baseline", 2, None, status="running", ended=None, git={}),
    ]
    command = "python experiments/x.py --set 'data.name=<b>'"
    results.write("cnn/plan.json", {"family": "cnn", "stages": {"baseline": names}, "command": command})
    assert origin_of(build(results.root).page) == (
        "Newest run of the plan 2026-02-28 22:59:59 UTC, 3 git revisions "
        f"newest run of the plan 2026-02-28 22:59:59 UTC {names[1]} command {command} "
        "git revision 0123456789 (1 run), fedcba (1 run), not recorded (1 run)"
    )


def test_the_numbers_are_above_their_origin_which_is_folded_with_a_short_revision(results):
    revision = "accce2fd5aca06e29001af608a379f133599f63c"
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 80.0, git={"revision": revision})])
    page = build(results.root).page.read_text(encoding="utf-8")
    assert page.index('aria-label="Headline"') < page.index('<details class="origin">')
    (summary,) = re.findall(r'<details class="origin">\s*<summary>(.*?)</summary>', page)
    assert summary == "Newest run of the plan 2026-01-02 03:05:05 UTC, git revision accce2fd5a"
    assert page.count(revision) >= 1, "the whole revision is in the folded part"


def test_of_runs_that_ended_in_the_same_second_a_teacher_is_not_the_newest(results):
    teacher = results.run("cnn", "teacher", 0, 90.0)
    baseline = results.run("cnn", "baseline", 0, 80.0)
    results.plan("cnn", teacher=[teacher], baseline=[baseline])
    assert f" UTC {baseline} " in origin_of(build(results.root).page)


def test_a_time_that_is_no_time_is_shown_as_it_is(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", ended="<b>noon</b>\n")])
    assert origin_of(build(results.root).page).startswith(
        "Newest run of the plan <b>noon</b>, git revision 0123456789 "
    )


def test_commands_of_several_families_name_their_families(results):
    for family, command in {"cnn": "python a.py", "vit": "python b.py", "mlp": "python a.py"}.items():
        run = results.run(family, "baseline")
        results.write(f"{family}/plan.json", {"family": family, "stages": {"baseline": [run]}, "command": command})
    origin = origin_of(build(results.root).page)
    assert " command python a.py cnn, mlp command python b.py vit git revision 0123456789" in origin


def test_a_page_of_a_plan_without_a_command_shows_none(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline")])
    assert "<dt>command</dt>" not in build(results.root).page.read_text(encoding="utf-8")
