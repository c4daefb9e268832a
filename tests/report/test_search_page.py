"""The text of a search's page: escaped, self-contained, complete, reproducible; and the files beside it."""

import csv
import json
import re
import shlex
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from report_files import contents
from search_folders import DEFAULT_CONFIGURATION, GRID, SPACE, Outcome, finished_search, learning_curve, make_search
from test_page import Tags

from raykd.disk.damage import DamagedFile
from raykd.report import search_wording
from raykd.report.build import build, load
from raykd.report.render.search_page import search_files
from raykd.report.stats.importances import importances_of
from raykd.spec.search import Search, choice, uniform
from raykd.store.records import CandidateRecord, CommandParts


@pytest.fixture(scope="module")
def page(one_search) -> str:
    return one_search.searches[0].page.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return " ".join(Tags(page).text.split())


def files_of(summary):
    return search_files(summary, importances_of(summary))


def page_of(example) -> str:
    summary = example.summary()
    return files_of(summary)[summary.page].decode()


def test_build_writes_a_linked_page_and_three_files_per_search(one_search):
    (search,) = one_search.searches
    assert search.page == one_search.page.parent / "cnn-search" / "index.html"
    names = {path.name for path in search.page.parent.iterdir()}
    assert names == {"index.html", "trials.csv", "trials.parquet", "summary.json"}
    index = one_search.page.read_text(encoding="utf-8")
    assert 'href="cnn-search/index.html"' in index
    assert "+1.00 points [−0.79, +2.79]" in text_of(index)  # noqa: RUF001


def test_the_page_has_winner_intervals_and_cost(page, one_search):
    (search,) = one_search.searches
    winner = search.trial(3).configuration
    text = text_of(page)
    for passage in (
        "Done: 12 of 12 trials ended: 4 done, 7 pruned, 1 failed.",
        f"The best configuration is that of trial 3: alpha {winner['method.alpha']:.4g}",
        "87.00 ± 0.87 % over 3 seeds.",
        "Winner against the default configuration: +1.00 points [−0.79, +2.79]; "  # noqa: RUF001
        "not distinguishable at n = 3; 3 of 3 seeds in favor of the winner.",
        "Winner against the baseline, trained with the same recipe: +6.00 points [+3.79, +8.21]; "
        "the winner is better at n = 3",
        "It was selected from 3 configurations with these seeds, the default included, so the interval of its gain "
        "over the baseline is widened for 3, and over the default configuration for 2 (Bonferroni).",
        "The trials trained 51 epochs in all, which took 102 CPU seconds with 2 CPUs per trial.",
        "The time of 8 of 12 trials is estimated",
        "Pruning trials saved 50 epochs, about 100 CPU seconds.",
        "live, the trials would have made 51 passes of the teacher over each image.",
        "tpe, seed 0",
        "asha, no trial is stopped before 1 epoch, rungs after 1, 3, one trial in 3 continues",
        "versions.optuna",
    ):
        assert passage in text, passage


def test_the_number_of_each_trial_links_to_its_folder(page, one_search):
    (search,) = one_search.searches
    links = {attributes["href"] for _, attributes in Tags(page).tags if "/trials/" in attributes.get("href", "")}
    assert links == {f"../../cnn/search/trials/{number:04d}/" for number in range(12)}
    assert all((search.page.parent / link / "run.json").is_file() for link in links)


def test_the_winners_flags_have_every_digit_of_its_configuration(page, one_search):
    (search,) = one_search.searches
    (options,) = re.findall(r"<pre[^>]*>([^<]*)</pre>", page)
    arguments = shlex.split(options.replace("&#39;", "'"))
    assert arguments[::2] == ["--set"] * 3 and arguments[1] == "search=none"
    settings = dict(argument.split("=") for argument in arguments[3::2])
    assert {path: float(value) for path, value in settings.items()} == dict(search.winner.configuration)
    assert "run the experiment of cnn with these options:" in text_of(page), "the plan does not have its command"


def test_the_command_that_trains_the_winner_is_that_of_the_plan_without_the_search() -> None:
    settings = {"student.epochs": "3", "search.trials": "4", "method.alpha": "0.9", "compare": "dkd, dist"}
    command = CommandParts(("python", "my experiment.py"), ("--results", "r"), settings)
    winner = CandidateRecord(3, {"method.alpha": 0.5}, (), ())
    assert search_wording.training_command(command, winner) == (
        "python 'my experiment.py' --results r --set student.epochs=3 --set 'compare=dkd, dist' --set search=none "
        "--set method.alpha=0.5"
    )
    kept_fields = replace(command, settings={"method": "dkd", "method.beta": "2", "method.alphabet": "3"})
    shown = search_wording.training_command(kept_fields, winner)
    assert "--set method=dkd --set method.beta=2 --set method.alphabet=3 --set search=none" in shown
    whole = search_wording.training_command(kept_fields, replace(winner, configuration={"method": "kd"}))
    assert whole == "python 'my experiment.py' --results r --set search=none --set method=kd"


@pytest.mark.parametrize("command", ["python experiments/tune_cnn.py", "raykd tune tune_cnn --trials=8"])
def test_the_page_does_not_change_the_text_of_a_command(tmp_path, command):
    results = tmp_path / "ray_results"
    finished_search(results)
    path = results / "cnn" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": command}))
    (search,) = load(results).searches
    assert re.search(r"<pre[^>]*>--set search=none --set method.alpha=", files_of(search)[search.page].decode())


def test_the_page_of_a_search_reads_the_command_of_the_plan(tmp_path):
    results = tmp_path / "ray_results"
    finished_search(results)
    path = results / "cnn" / "plan.json"
    parts = {"program": ["python", "experiments/tune_cnn.py"], "options": [], "settings": {"search.trials": "4"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command_parts": parts}))
    (search,) = load(results).searches
    assert "python experiments/tune_cnn.py --set search=none --set method.alpha=" in files_of(search)[
        search.page
    ].decode().replace("&#39;", "'")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command_parts": parts | {"program": ["a\x1b"]}}))
    with pytest.raises(DamagedFile, match="field 'command_parts' has characters that are not printable"):
        load(results)


def test_values_in_parentheses_are_explained_if_there_are_any(page, one_search):
    note = "A value in parentheses is the last one that a trial reported before it ended without a result."
    assert note in text_of(page) and re.search(r">\(\d+\.\d\d %\)<", page)
    done = replace(one_search.searches[0], trials=tuple(t for t in one_search.searches[0].trials if t.state == "done"))
    assert not search_wording.has_last_values(done)


def test_reasons_and_values_with_markup_are_escaped(page, tmp_path):
    space = {"student.model": choice("resnet8", "<img src=x onerror=alert(1)>"), "method.alpha": choice(0.1, 0.5)}
    search = Search(space=space, sampler="grid", scheduler="none", trials=4, confirm=0)
    default_configuration = {"student.model": "resnet8", "method.alpha": 0.5}
    hostile = page_of(
        make_search(
            tmp_path, search, lambda t: Outcome("done", [80.0 + t.number]), default_configuration=default_configuration
        )
    )
    for text in (page, hostile):
        tags = Tags(text)
        names = [tag for tag, _ in tags.tags]
        assert names.count("script") == 1, "the one of the tables"
        assert set(names).isdisjoint({"img", "b" if text is hostile else "iframe"})
        assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
        assert "\x1b" not in text
    assert "NaN in <b>kd</b> at [31mepoch 2" in text_of(page)
    assert "<img src=x onerror=alert(1)>" in text_of(hostile)


def test_the_search_page_loads_nothing_and_every_link_has_a_target(page, one_search):
    attributes = [attributes for _, attributes in Tags(page).tags]
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page
    assert all("src" not in names for names in attributes)
    ids = [names["id"] for names in attributes if "id" in names]
    assert len(ids) == len(set(ids))
    folder = one_search.searches[0].page.parent
    for href in (names["href"] for names in attributes if "href" in names):
        assert href[1:] in ids if href.startswith("#") else (folder / href).resolve().exists()
    for labels in (names["aria-labelledby"] for names in attributes if "aria-labelledby" in names):
        assert set(labels.split()) <= set(ids)


def test_the_page_states_that_no_configuration_is_better_than_the_default(tmp_path):
    example = finished_search(tmp_path)
    example.confirm({None: [87.0, 88.0, 89.0], 3: [86.0, 87.5, 87.5]}, [80.0, 82.0, 81.0])
    text = text_of(page_of(example))
    assert "No configuration that the search found is better than the default: alpha 0.5, temperature 4" in text
    assert "Winner against the default" not in text
    assert "over the baseline is widened for 2 (Bonferroni)." in text


@pytest.mark.nightly
def test_candidates_and_baselines_that_failed_are_in_the_table_with_their_reasons(tmp_path):
    example = finished_search(tmp_path)
    failed = {None: "seed 0: <b>out of memory</b>", 6: "seed 2: NaN", "baseline": "seed 1: loss became NaN"}
    example.confirm({None: [], 3: [86.0, 87.5, 87.5], 6: []}, [], failed=failed)
    text = text_of(page_of(example))
    for passage in ("failed: seed 0: <b>out of memory</b>", "failed: seed 2: NaN", "failed: seed 1: loss became NaN"):
        assert passage in text
    assert "87.00 ± 0.87 % validation top-1 of the winner; the default configuration failed." in text
    assert "None" not in text


@pytest.mark.parametrize("num_trials", [0, 1, 2])
def test_an_unfinished_search_has_a_page(tmp_path, num_trials):
    search = Search(space=SPACE, trials=8, grace_epochs=1)
    text = text_of(page_of(make_search(tmp_path, search, lambda _: Outcome("running", [10.0]), num_trials=num_trials)))
    assert "Interrupted: 0 of 8 trials ended" in text
    assert "No trial has finished yet." in text
    assert "Not confirmed with other seeds yet." in text
    assert "Nothing to draw yet: configurations tried," in text


def test_the_page_of_a_failed_search_lists_the_reasons(tmp_path):
    search = Search(space=SPACE, trials=3, grace_epochs=1)
    text = text_of(page_of(make_search(tmp_path, search, lambda _: Outcome("failed", reason="no more memory"))))
    assert "None of 3 trials finished." in text
    assert text.count("no more memory") == 3


def test_the_page_states_that_an_unconfirmed_best_has_one_seed(tmp_path):
    search = Search(space=GRID, sampler="grid", scheduler="none", trials=3, confirm=0)
    text = text_of(page_of(make_search(tmp_path, search, lambda t: Outcome("done", [80.0 + t.number]))))
    assert "The best is trial 2, alpha 0.9: 82.00 %, with the one seed that selected it" in text
    assert "Not confirmed with other seeds: the search has confirm = 0." in text
    assert "The best configuration is trained with the experiment's seeds, and the report compares it with a " in text
    assert "a baseline that is trained with the same student recipe." in text


@pytest.mark.nightly
def test_fields_that_share_a_name_are_shown_by_path(tmp_path):
    space = {"student.optimizer.lr": choice(0.1, 0.2), "method.lr": choice(0.1, 0.2)}
    search = Search(space=space, sampler="grid", scheduler="none", trials=4, confirm=0)
    default_configuration = {"student.optimizer.lr": 0.1, "method.lr": 0.1}
    page = page_of(
        make_search(
            tmp_path, search, lambda t: Outcome("done", [80.0 + t.number]), default_configuration=default_configuration
        )
    )
    assert 'data-label="student.optimizer.lr"' in page


def test_the_same_folder_makes_the_same_bytes(tmp_path):
    example = finished_search(tmp_path)
    assert files_of(example.summary()) == files_of(example.summary())


def test_the_trial_tables_have_one_row_per_trial(one_search):
    folder = one_search.searches[0].page.parent
    rows = pq.ParquetFile(folder / "trials.parquet").read().to_pylist()
    assert [row["number"] for row in rows] == list(range(12))
    assert rows[0]["method.alpha"] == 0.5
    assert (rows[0]["state"], rows[0]["epochs_trained"], rows[0]["epochs"]) == ("done", 9, 9)
    assert (rows[0]["seconds"], rows[0]["is_estimated"], rows[0]["device_seconds"]) == (9.0, False, 18.0)
    assert (rows[2]["state"], rows[2]["val_top1"], rows[2]["seconds"]) == ("pruned", None, 3.0)
    assert rows[2]["is_estimated"]
    assert rows[5]["reason"].startswith("NaN in <b>kd</b>\n")
    with (folder / "trials.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == list(rows[0])
    assert float(written[3]["method.temperature"]) == rows[3]["method.temperature"]
    assert written[2]["val_top1"] == ""


def test_columns_have_the_type_of_their_field(tmp_path):
    space = {
        "student.model": choice("resnet8", "resnet14"),
        "student.epochs": choice(3, 9),
        "student.optimizer.nesterov": choice(True, False),
        "method.alpha": choice(0, 0.5),
    }
    search = Search(space=space, sampler="grid", scheduler="none", trials=2, confirm=0)
    default_configuration = {
        "student.model": "resnet8",
        "student.epochs": 9,
        "student.optimizer.nesterov": False,
        "method.alpha": 0.5,
    }
    summary = make_search(
        tmp_path, search, lambda t: Outcome("done", [80.0]), default_configuration=default_configuration
    ).summary()
    (row, _) = csv.DictReader(files_of(summary)[summary.page.with_name("trials.csv")].decode().splitlines())
    assert [row[path] for path in space] == ["resnet8", "3", "true", "0"]


def test_summary_json_has_the_winner_its_gains_and_the_cost(one_search):
    summary = json.loads(one_search.searches[0].page.with_name("summary.json").read_text())
    assert (summary["family"], summary["name"], summary["state"]) == ("cnn", "search", "done")
    assert summary["trials"] == {"done": 4, "pruned": 7, "failed": 1, "running": 0}
    assert summary["default_configuration"] == DEFAULT_CONFIGURATION
    assert summary["winner"]["trial"] == 3
    gain = summary["confirmation"]["winner_minus_default"]
    assert gain["gains"] == {"0": 1.0, "1": 1.5, "2": 0.5}
    assert (gain["comparisons"], gain["is_distinguishable"]) == (2, False)
    assert summary["importances"]["num_trials"] == 11
    assert (summary["cost"]["device"], summary["cost"]["device_seconds"]) == ("CPU", 102.0)


def test_a_gain_with_the_seeds_that_selected_its_configuration_is_a_warning(results):
    """The winner's run is distilled-3. At first, the family plans another run."""
    other, winner = (results.run("cnn", "distilled", 0, 88.0, name=name) for name in ("distilled-0", "distilled-3"))
    finished_search(results.root)
    results.plan("cnn", distilled=[other])
    unplanned = "1 evaluated run in this folder is not in the plan, and left out here: kd 1"
    assert load(results.root).summaries[0].warnings == (unplanned,)
    results.plan("cnn", distilled=[winner])
    _, warning = load(results.root).summaries[0].warnings
    assert (
        "the distilled configuration was selected from 3 by validation with these same seeds (search search)" in warning
    )
    results.plan("cnn", {"kd (alpha 0.9)": [winner]}, distilled=[other])
    (warning,) = load(results.root).summaries[0].warnings
    assert warning.startswith("the 'kd (alpha 0.9)' configuration was selected from 3")


def test_a_gain_of_a_default_configuration_that_was_selected_is_a_warning_too(results):
    distilled = results.run("cnn", "distilled", 0, 88.0, name="distilled-None")
    example = finished_search(results.root)
    results.plan("cnn", distilled=[distilled])
    example.confirm({None: [87.0, 88.0, 89.0], 3: [86.0, 87.5, 87.5]}, [80.0, 82.0, 81.0])
    (warning,) = load(results.root).summaries[0].warnings
    assert "the distilled configuration was selected from 2 by validation with these same seeds" in warning
    example.confirm({None: [87.0, 88.0, 89.0]}, [80.0, 82.0, 81.0])
    assert load(results.root).summaries[0].warnings == ()


def test_a_damaged_search_leaves_the_old_report_untouched(tmp_path):
    example = finished_search(tmp_path)
    build(tmp_path)
    before = contents(tmp_path)
    (example.path / "confirmed.json").write_text("{")
    with pytest.raises(Exception, match=r"confirmed\.json' is damaged: "):
        build(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.nightly
def test_the_page_of_many_trials_has_a_bounded_size(tmp_path):
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=60, sampler="random", grace_epochs=1)
    default_configuration = {"method.alpha": 0.5}
    example = make_search(
        tmp_path,
        search,
        lambda t: Outcome("done", learning_curve(80 + t.number / 100, 9)),
        default_configuration=default_configuration,
    )
    assert len(page_of(example)) < 200_000
