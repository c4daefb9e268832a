"""Configurations side by side, and warnings about comparisons."""

import json
from dataclasses import replace

import pytest
from evaluated_folders import sha256_of
from finished_results import copy_to

from raykd.cli.experiment_file import load_experiment
from raykd.errors import RaykdError
from raykd.provenance import teacher_digest
from raykd.report.read.collect import collect
from raykd.report.read.provenance import configurations_of, flatten, origins_of, warnings_of
from raykd.report.stats.summary import summarize
from raykd.spec.overrides import override_all
from raykd.spec.published import published_pairs


def family_of(results, baseline=None, distilled=None):
    results.plan(
        "cnn",
        baseline=[results.run("cnn", "baseline", seed, **(baseline or {})) for seed in (0, 1)],
        distilled=[results.run("cnn", "distilled", seed, **(distilled or {})) for seed in (0, 1)],
    )
    return collect(results.root)[0]


def test_runs_that_differ_only_by_design_raise_no_warning(results):
    method = {"recipe": {"epochs": 3}, "method": {"alpha": 0.5}, "teacher": {"fingerprint": "cd34"}}
    plain = {"recipe": {"epochs": 3}, "method": {"name": "ce"}, "teacher": None}
    assert warnings_of(family_of(results, {"config": plain}, {"config": method})) == ()


def comparison_family(results, **by_method):
    """Return a family with the default method kd and others. by_method: {method: fields of its run.json}."""
    by_method = {"kd": {}} | by_method
    baseline = [results.run("cnn", "baseline", seed) for seed in (0, 1)]
    named = {
        method: [
            results.run("cnn", "distilled", seed, method=method, name=f"distilled-net-{method}-s{seed}-ab12", **fields)
            for seed in (0, 1)
        ]
        for method, fields in by_method.items()
    }
    results.plan("cnn", baseline=baseline, distilled=named["kd"], comparison=named)
    return collect(results.root)[0]


def test_methods_compared_differ_by_design(results):
    methods = {name: {"config": {"method": {name: 1}, "recipe": {"epochs": 3}}} for name in ("dkd", "crd")}
    family = comparison_family(results, kd={"config": {"method": {"alpha": 0.5}, "recipe": {"epochs": 3}}}, **methods)
    assert not [line for line in warnings_of(family) if "method." in line]


def test_hyperparameters_that_are_not_those_of_the_published_result_are_a_warning(results):
    kd, dkd = {"kind": "kd", "alpha": 0.1, "temperature": 4.0}, {"kind": "dkd", "beta": 8.0, "temperature": 4.0}
    family = comparison_family(results, kd={"config": {"method": kd}}, dkd={"config": {"method": dkd}})
    assert not [line for line in warnings_of(family) if "published" in line]
    vgg = replace(family, published=published_pairs()["vgg13:vgg8"])  # mdistiller's vgg13_vgg8.yaml has BETA 6
    assert [line for line in warnings_of(vgg) if "published" in line] == [
        "the published accuracy of dkd was reached with beta 6, and the runs here have 8"
    ]
    resnet = replace(family, published=published_pairs()["resnet32x4:resnet8x4"])  # beta 8
    assert not [line for line in warnings_of(resnet) if "published" in line]


def test_students_that_start_from_the_weights_of_their_teacher_are_a_warning(results):
    def warned(*seeds):
        students = [results.run("cnn", "distilled", n, starts_as_its_teacher=n in seeds) for n in (0, 1, 2)]
        results.plan("cnn", distilled=students)
        return [line.partition(" started")[0] for line in warnings_of(collect(results.root)[0]) if "initial w" in line]

    assert warned(1) == ["distilled students of seed 1"]
    assert warned(0, 2) == ["distilled students of seed 0, 2"]
    assert warned() == []


def test_a_warmup_that_does_not_end_is_a_warning(results):
    dkd = {"config": {"recipe": {"epochs": 15}}, "unfinished_warmup": {"epochs": 20.0, "reached": 0.7}}
    family = comparison_family(results, kd={"config": {"recipe": {"epochs": 15}}}, dkd=dkd)
    assert [line for line in warnings_of(family) if "warm-up" in line] == [
        "the 'dkd' runs have a warm-up of 20 epochs and train for 15, so the terms of dkd reach 70 % of their weights"
    ]


def test_different_machines_and_code_of_compared_runs_are_a_warning(results):
    family = comparison_family(results, dkd={"hardware": {"cpu": "another"}}, crd={"versions": {"torch": "2.14.0"}})
    warnings = warnings_of(family)
    assert "the students' runs differ in hardware.cpu: a processor (6 of 8 runs); another (2 of 8 runs)" in warnings
    assert "the students' runs differ in versions.torch: 2.15.0 (6 of 8 runs); 2.14.0 (2 of 8 runs)" in warnings


def test_compared_students_with_other_fields_than_the_baseline_are_a_warning(results):
    """Methods with the same difference share one warning, which names each."""
    epochs = {name: {"config": {"recipe": {"epochs": count}}} for name, count in (("dkd", 4), ("crd", 4), ("sp", 5))}
    family = comparison_family(results, kd={"config": {"recipe": {"epochs": 3}}}, **epochs)
    about_epochs = [line for line in warnings_of(family) if "student.epochs" in line]
    assert about_epochs == [
        "baseline and 'dkd', 'crd' students differ in student.epochs: 3 against 4",
        "baseline and 'sp' student differ in student.epochs: 3 against 5",
    ]


def test_different_runs_of_one_compared_method_are_a_warning(results):
    comparison_family(results, dkd={"config": {"method": {"beta": 8}}})
    results.run("cnn", "distilled", 1, method="dkd", name="distilled-net-dkd-s1-ab12", config={"method": {"beta": 2}})
    assert "the 'dkd' runs differ in method.beta: 8, 2" in warnings_of(collect(results.root)[0])


def test_compared_students_of_a_retrained_teacher_are_a_warning(results):
    family = comparison_family(results, kd={"teacher_sha256": sha256_of(b"new")}, dkd={"teacher_sha256": "old"})
    teacher = results.run("cnn", "teacher", weights="new")
    plan = json.loads((results.root / "cnn" / "plan.json").read_text())
    results.plan("cnn", plan["comparison"], **plan["stages"], teacher=[teacher])
    (warning,) = (line for line in warnings_of(collect(results.root)[0]) if "distilled from earlier weights" in line)
    names = ", ".join(run.name for run in family.compared["dkd"])
    assert warning.startswith(f"{names}: distilled from earlier weights")


def test_students_with_different_recipes_are_a_warning(results):
    family = family_of(results, {"config": {"recipe": {"epochs": 200}}}, {"config": {"recipe": {"epochs": 240}}})
    assert warnings_of(family) == ("baseline and distilled student differ in student.epochs: 200 against 240",)


def test_a_field_of_only_one_student_is_a_warning(results):
    family = family_of(results, {"config": {"recipe": {"mixup": None}}}, {"config": {"recipe": {"mixup": {"p": 1}}}})
    assert warnings_of(family) == ("baseline and distilled student differ in student.mixup.p: unset against 1",)


def test_different_runs_of_one_stage_are_a_warning(results):
    family = family_of(results)
    results.run("cnn", "distilled", 1, config={"method": {"alpha": 0.9}})
    results.run("cnn", "distilled", 0, config={"method": {"alpha": 0.5}})
    (family,) = collect(results.root)
    assert "the distilled runs differ in method.alpha: 0.5, 0.9" in warnings_of(family)


def test_hashes_in_warnings_are_short_and_revisions_with_equal_source_are_no_warning(results):
    source = {"revision": "ab" * 20, "source_sha256": "cd" * 32}
    family = family_of(results, {"git": source}, {"git": source | {"revision": "ef" * 20}})
    assert warnings_of(family) == ()
    family = family_of(results, {"git": source}, {"git": source | {"source_sha256": "01" * 32}})
    assert warnings_of(family) == (
        "the students' runs differ in git.source_sha256: cdcdcdcdcd (2 of 4 runs); 0101010101 (2 of 4 runs)",
    )


def test_different_machines_and_code_are_a_warning(results):
    family = family_of(
        results,
        {"hardware": {"gpu": "A"}},
        {"hardware": {"gpu": "B"}, "git": {"revision": "0123456789", "source_sha256": "ba"}},
    )
    assert warnings_of(family) == (
        "the students' runs differ in hardware.gpu: A (2 of 4 runs); B (2 of 4 runs)",
        "the students' runs differ in git.source_sha256: ab (2 of 4 runs); ba (2 of 4 runs)",
    )


def test_students_of_a_retrained_teacher_are_a_warning(results):
    teacher, taught_by = results.run("cnn", "teacher", weights="new"), (sha256_of(b"new"), "old")
    students = [results.run("cnn", "distilled", seed, teacher_sha256=of) for seed, of in enumerate(taught_by)]
    results.plan("cnn", teacher=[teacher], distilled=students)
    (family,) = collect(results.root)
    (warning,) = warnings_of(family)
    assert warning.startswith(f"{students[1]}: distilled from earlier weights of the teacher")


def test_students_of_several_teachers_are_identified_by_all_of_them(results):
    teachers = [results.run("cnn", "teacher", seed, weights=f"weights {seed}") for seed in (0, 1)]
    weights = [sha256_of(f"weights {seed}".encode()) for seed in (0, 1)]
    of = {0: teacher_digest(weights), 1: teacher_digest(["ef" * 32, weights[1]])}
    config = {"teacher": {"seed": 0}, "teacher_seeds": [0, 1]}
    students = [results.run("cnn", "distilled", seed, teacher_sha256=of[seed], config=config) for seed in (0, 1)]
    results.plan("cnn", teacher=teachers, baseline=[results.run("cnn", "baseline", config={})], distilled=students)
    (family,) = collect(results.root)
    (warning,) = warnings_of(family)
    assert warning.startswith(f"{students[1]}: distilled from earlier weights")
    (results.root / "teachers" / teachers[1] / "test.json").unlink()
    assert warnings_of(collect(results.root)[0]) == (), "the weights of a teacher that is not evaluated are not known"


def test_another_host_or_an_imported_teacher_is_no_warning(results):
    family_of(results, {"hardware": {"gpu": "A", "host": "n1"}}, {"hardware": {"gpu": "A", "host": "n2"}})
    teacher = results.run("cnn", "teacher", hardware={"gpu": "B", "host": "n3"})
    plan = json.loads((results.root / "cnn" / "plan.json").read_text())
    results.plan("cnn", **plan["stages"], teacher=[teacher])
    assert warnings_of(collect(results.root)[0]) == ()


def test_configurations_are_side_by_side_with_the_seeds_in_one_cell(results):
    configurations = configurations_of(family_of(results))
    assert configurations["student.seed"] == {"teacher": (), "baseline": ("0", "1"), "distilled": ("0", "1")}


def test_configurations_have_the_paths_and_values_of_set(tmp_path):
    """Together they make another experiment the one that trained the runs."""
    (family,) = collect(copy_to(tmp_path))
    experiment = load_experiment(tmp_path / "tiny.py")
    identities = {"student.model.kind", "teacher.model.kind", "data_identity", "initial", "imported"}
    rows = configurations_of(family)
    assert {"data.name", "teacher.epochs", "student.optimizer", "method.temperature", "teacher_seed"} <= rows.keys()
    shown = {path: values["distilled"] or values["teacher"] for path, values in rows.items() if path not in identities}
    other = override_all(experiment, [("teacher.epochs", "7"), ("student.optimizer", "adamw"), ("method", "dkd")])
    assert other != experiment
    assert override_all(other, [(path, value) for path, (value,) in shown.items()]) == experiment


def test_the_recorded_teacher_of_a_student_is_in_the_teachers_column(results):
    config = {"recipe": {"epochs": 3}, "teacher": {"recipe": {"epochs": 9}, "seed": 4, "imported": {"path": "a.pth"}}}
    rows = configurations_of(family_of(results, distilled={"config": config}))
    assert rows["student.epochs"] == {"teacher": (), "baseline": ("3",), "distilled": ("3",)}
    assert rows["teacher.epochs"] == {"teacher": ("9",), "baseline": (), "distilled": ()}
    assert rows["teacher_seed"]["teacher"] == ("4",) and rows["teacher_checkpoint"]["teacher"] == ("a.pth",)


def test_a_run_without_git_is_shown_as_not_recorded(results):
    family_of(results)
    results.run("cnn", "baseline", 0, git={})
    (family,) = collect(results.root)
    origins = origins_of(family)
    assert origins["git.revision"] == {"not recorded": 1, "0123456789": 3}
    assert "git" not in origins


def test_nested_values_become_dotted_text():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}, "g": "te\nxt", "h": True}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "[1, 2]", "e": "null", "f": "{}", "g": "te xt", "h": "true"}


def test_warnings_of_an_imported_teacher_are_in_the_report(results):
    check = {"val_top1": 60.0, "num_images": 200, "refused": "", "warnings": ["trained on images that validate now"]}
    config = {"imported": {"sha256": "ab"}, "recipe": {"epochs": 3}}
    results.plan("cnn", teacher=[results.run("cnn", "teacher", imported=check, config=config)])
    assert "trained on images that validate now" in warnings_of(collect(results.root)[0])


def test_the_remedy_for_a_weak_teacher_depends_on_where_it_was_trained(results):
    for imported, remedy in (
        (None, "train it longer"),
        ({"sha256": "ab"}, "it was imported, so check that its network"),
    ):
        config = {"imported": imported, "recipe": {"epochs": 3}}
        teacher = [results.run("cnn", "teacher", top1=20.0, config=config)]
        results.plan("cnn", teacher=teacher, baseline=[results.run("cnn", "baseline", top1=94.0)])
        (warning,) = [line for line in summarize(collect(results.root)[0]).warnings if "is below the baseline" in line]
        assert remedy in warning and ("train it longer" in warning) is (imported is None)


def test_several_weak_teachers_are_weak_on_average(results):
    """Students learn from the mean of their logits, which may be more accurate."""
    results.family("cnn", [80.0, 82.0], [90.0], [91.0])
    warnings = summarize(collect(results.root)[0]).warnings
    assert any("the teachers (81.00 % on average) are below the baseline (90.00 %)" in line for line in warnings)


def test_a_damaged_list_of_warnings_names_its_file(results):
    results.plan(
        "cnn", teacher=[results.run("cnn", "teacher", imported={"val_top1": 1.0, "num_images": 9, "warnings": [3]})]
    )
    with pytest.raises(RaykdError, match=r"run\.json.*imported\.warnings"):
        collect(results.root)


def test_runs_of_several_workers_that_differ_from_one_workers_are_warned_of(results):
    per_worker = "batch norm statistics, negatives for CRD"
    shared = {"device": "cpu", "precision": "fp32", "threads": 2, "workers": [2], "per_worker": per_worker}
    warnings = warnings_of(comparison_family(results, crd={"compute": shared}))
    (line,) = [line for line in warnings if "negatives for CRD" in line]
    assert "distilled-net-crd-s0-ab12" in line and "distilled-net-kd" not in line and "several workers" in line
    assert not [line for line in warnings if "compute.per_worker" in line]


def test_distilled_runs_of_different_classes_of_the_teacher_are_a_warning(results):
    """That baselines have no teacher, and that a live teacher and a cache of all classes round differently, is none."""
    top = {"kept": 16, "num_classes": 1000, "probability": 0.98, "kl": 0.03, "temperature": 4.0}

    def compute(**fields):
        return {"compute": {"device": "cpu", "precision": "fp32", "threads": 2, **fields}}

    sources = {"kd": compute(teacher="cache", top_classes=top), "crd": compute(teacher="live")}
    family = comparison_family(results, **sources, dkd=compute(teacher="cache"))
    (warning,) = (line for line in warnings_of(family) if "logits" in line)
    assert warning.startswith(
        "the distilled runs learn from different logits of the teacher: the top 16 of 1,000 classes"
    )
    assert not [line for line in warnings_of(family) if "top_classes" in line]
    alike = comparison_family(results, kd=sources["kd"], crd=sources["kd"], dkd=sources["kd"])
    assert not [line for line in warnings_of(alike) if "logits" in line or "top_classes" in line]
    assert origins_of(alike)["compute.top_classes.kept"]["16"] == 6


def test_number_of_cached_classes_of_distilled_runs_is_no_difference_to_the_baseline(results):
    family = family_of(results, {"config": {"cached_classes": None}}, {"config": {"cached_classes": 16}})
    assert not [line for line in warnings_of(family) if "cached_classes" in line]
