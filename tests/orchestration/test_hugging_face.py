"""Networks of transformers through Ray: a pretrained teacher, students from scratch, and the teacher imported."""

import json
import tempfile
from pathlib import Path

import pytest
from experiment_runs import assert_same_bits, command, environment, run_here, train_directly
from hugging_face import CONFIGS, PREPROCESSOR, save_classifier, write_folder
from safetensors.torch import load_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd.methods import KD, AttentionTransfer, FeatureKD
from raykd.models.hf_model import HuggingFace
from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.spec.recipe import SGD
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

STAGES = ("resnet.encoder.stages.0", "resnet.encoder.stages.1")
EXPERIMENT = """
from raykd import SGD, Cosine, Data, Experiment, Recipe, ResNet, Workers, main

recipe = Recipe(ResNet((1, 1, 1, 1), 8), epochs=1, batch_size=50, schedule=Cosine(), precision="fp32")
experiment = Experiment(
    family="small",
    seeds=(0,),
    data=Data("digits", val_images=100, train_images=200, image_size=8, crop_padding=1),
    teacher=recipe,
    student=recipe,
    workers=Workers(cpus=1),
)

if __name__ == "__main__":
    main(experiment)
"""


def test_runs_equal_those_of_the_loop_and_a_trained_folder_is_imported(cluster: str, tmp_path: Path) -> None:
    save_classifier(tmp_path / "teacher", "resnet")
    student = write_folder(tmp_path / "student", "resnet", hidden_sizes=[8, 8])
    folders = [tmp_path / "teacher", student]
    teacher = HuggingFace(str(folders[0]), weights="pretrained", features=STAGES)
    mine = experiment(
        teacher=recipe(model=teacher, epochs=60, optimizer=SGD(lr=0.1)),
        student=recipe(model=HuggingFace(str(student), features=STAGES)),
        method=KD(),
        compare=(FeatureKD(), AttentionTransfer()),
        workers=Workers(cpus=1),
    )
    ended = run_here([mine], tmp_path / "results")
    assert (ended.exit_code, ended.errors) == (0, [])
    store = RunStore(tmp_path / "results")
    runs = make_plan(mine, digits(), NO_WEIGHTS).runs
    for run in runs:
        caches = store.logit_caches if run.method.kind == "kd" else None
        assert_same_bits(store.folder(run), train_directly(run, tmp_path / "alone", caches=caches))
    import_with_the_flag(store.folder(runs[0]).best, tmp_path)


def import_with_the_flag(weights: Path, folder: Path) -> None:
    """Save the trained teacher as transformers does, and give its folder to --teacher-checkpoint."""
    from transformers import AutoConfig, AutoModelForImageClassification

    network = AutoModelForImageClassification.from_config(AutoConfig.for_model(**CONFIGS["resnet"], num_labels=10))
    network.load_state_dict(load_file(weights))
    network.save_pretrained(folder / "trained")
    (folder / "trained" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    file = folder / "mine.py"
    file.write_text(EXPERIMENT)
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as private:
        environ = environment(cpus=1) | {"RAYKD_TMP": private}
        words = ["--results", str(folder / "imported"), "--teacher-checkpoint", f"hf:{folder / 'trained'}"]
        with command(words, environ, folder / "output", file) as started:
            ended = started.end()
    assert (ended.exit_code, ended.errors) == (0, [])
    assert any("done: imported, validation top-1" in line for line in ended.lines)
