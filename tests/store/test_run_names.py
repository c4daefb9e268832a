"""Which run a name names: whole names, unique beginnings, fingerprints; what several or no runs mean."""

from pathlib import Path

import pytest
from written_results import finished

from raykd.errors import ConfigError
from raykd.store.run_folder import RunFolder
from raykd.store.run_names import find_run, short_names
from raykd.store.run_store import RunStore


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    finished(folder)
    return folder


def test_a_unique_beginning_of_the_name_or_of_family_and_name_or_of_the_fingerprint_names_a_run(results):
    (teacher,) = (results / "teachers").glob("teacher-*")
    digits = teacher.name.rpartition("-")[2]
    for name in ("teach", "teachers/teach", teacher.name, f"teachers/{teacher.name}", digits[:6], str(teacher)):
        assert find_run(results, name).path == teacher, name


def test_a_whole_name_counts_before_longer_names_that_begin_with_it(tmp_path):
    for name in ("run-1", "run-10"):
        (tmp_path / "family" / name).mkdir(parents=True)
        (tmp_path / "family" / name / "run.json").touch()
    assert find_run(tmp_path, "run-1").path.name == "run-1"


def test_an_ambiguous_beginning_is_one_line_with_the_candidates(results):
    with pytest.raises(
        ConfigError, match=r"run 'baseline' names 2 runs; name one of small/baseline-.*, small/baseline-"
    ) as error:
        find_run(results, "baseline")
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_an_unknown_name_is_one_line_with_the_nearest_run(results):
    (teacher,) = (results / "teachers").glob("teacher-*")
    with pytest.raises(ConfigError, match=rf"no run '.*': it has 5 runs; did you mean '{teacher.name}'"):
        find_run(results, f"{teacher.name[:-1]}x")
    with pytest.raises(ConfigError, match="no run ''"):
        find_run(results, "")


def test_the_short_name_of_every_run_names_it(results):
    short = short_names(results)
    assert len(short) == len(set(short.values())) == 5
    for path, name in short.items():
        assert find_run(results, name).path == path


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        (("aaaaaa1111", "aaaaaa2222", "bbbbbb3333"), {"aaaaaa1", "aaaaaa2", "bbbbbb"}),
        (("aaaaaa1111", "bbbbbb2222", "bbbbbb3333"), {"aaaaaa", "bbbbbb2", "bbbbbb3"}),
    ],
)
def test_a_short_name_has_only_the_digits_that_distinguish_it(tmp_path, digits, expected):
    for number, text in enumerate(digits):
        path = tmp_path / "cnn" / f"baseline-net-s{number}-{text}" / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert set(short_names(tmp_path).values()) == expected


@pytest.mark.parametrize(
    "place", ["teachers/.removed-0123456789ab", ".before_migration/teacher-resnet8-s0-0123456789ab"]
)
def test_a_run_that_is_being_removed_or_was_set_aside_has_no_name(tmp_path, place):
    plan, store = finished(tmp_path), RunStore(tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    store.folder(plan.runs[0]).path.rename(tmp_path / place)
    with pytest.raises(ConfigError, match="no run 'teach'"):
        find_run(tmp_path, "teach")


def test_a_trial_is_in_the_results_folder_of_its_search():
    run, trial = RunFolder(Path("r/cnn/baseline-s0-ab12")), RunFolder(Path("r/cnn/search/trials/0003"))
    for folder, is_trial, name in ((run, False, "baseline-s0-ab12"), (trial, True, "cnn/search/0003")):
        assert (folder.is_trial, folder.results, folder.family, folder.name) == (is_trial, Path("r"), "cnn", name)
        assert RunStore.of(folder) == RunStore(Path("r"))
    assert RunFolder(Path("cnn/search/trials/0003")).results == Path()
