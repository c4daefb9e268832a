"""Invalid settings, flags, experiment files, search spaces and custom method files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bad_inputs.case import EXPERIMENT, BadInput, experiment_file, plan
from raykd.errors import COMMAND

Make = Callable[[Path], Sequence[str | Path]]
HUGE = "9" * 26

SETTINGS: dict[str | tuple[str, ...], tuple[str, ...]] = {
    # Names of models, methods, data and fields.
    "teacher.model=resnet19": ("unknown model 'resnet19'", f"`{COMMAND} models` lists the names"),
    "student.model=renset18": ("unknown model 'renset18'", "did you mean 'resnet18'?"),
    "student.model=": ("unknown model ''", "lists the names"),
    "student.patience=": ("student.patience=: the value is empty", "write none"),
    "teacher_checkpoint=": ("teacher_checkpoint=: the value is empty", "write none"),
    "student.model=timm:": ("unknown timm model ''",),
    "student.model=timm:vit_tinny_patch16_224": ("unknown timm model", "did you mean 'vit_tiny_patch16_224'?"),
    "student.model=timm:resnet18.no_such_tag": ("timm model 'resnet18.no_such_tag' cannot be built", "no_such_tag"),
    "student.model=timm:edgenext_xx_small": ("'edgenext_xx_small' does not accept images of 16x16", "input_size"),
    ("student.model=timm:test_vit", "student.model.drop_path_rate=0.1"): (
        "student.model.drop_path_rate is no field of Timm",
        "arguments.drop_path_rate=VALUE",
    ),
    ("student.model=timm:test_vit", "student.model.input_size=32", "student.model.arguments.drop_path_rat=0.1"): (
        "arguments.drop_path_rat = 0.1 in Timm",
        "did you mean 'drop_path_rate'?",
    ),
    "student.model.arguments.drop_path_rate=0.1": ("unknown config field 'student.model.arguments", "ResNet has"),
    "method=kdd": ("unknown method 'kdd'", "did you mean 'kd'?"),
    "method=": ("unknown method ''", "known are"),
    "method=ce": ("method", "nothing would be distilled"),
    "method=deit": ("method", "distillation token", "--set student.model=vit6"),
    "method=gone.py:Mine": ("method file 'gone.py' does not exist", "check the path"),
    "method=mine.py": ("'mine.py' names no class", "my_method.py:MyMethod"),
    "method.temprature=2": ("unknown config field 'method.temprature'", "did you mean 'temperature'?"),
    "student.optimiser.lr=1": ("unknown config field 'student.optimiser.lr'", "did you mean 'optimizer'?"),
    "student.optimizer=rmspro": ("unknown optimizer 'rmspro'", "timm:lamb", "did you mean 'rmsprop'?"),
    "student.optimizer=timm:lam": ("unknown optimizer 'timm:lam'", "list_optimizers()", "did you mean 'timm:lamb'?"),
    "student.optimizer=lbfgs": ("optimizer lbfgs: LBFGS evaluates the loss several times per step",),
    "teacher.optimizer=sparseadam": ("optimizer sparseadam: SparseAdam requires sparse gradients",),
    "student.optimizer=muon": ("optimizer muon: Muon of torch updates matrices only", "use timm:muon"),
    "student.optimizer=timm:bnbadam": ("optimizer timm:bnbadam", "another package"),
    "student.optimizer=timm:kron": ("optimizer timm:kron", "random numbers"),
    ("student.optimizer=rmsprop", "student.optimizer.momentun=0.9"): (
        "unknown config field 'student.optimizer.momentun': rmsprop has lr, alpha, eps",
        "did you mean 'momentum'?",
    ),
    ("student.optimizer=adam", "student.optimizer.betas=1.5,0.9"): (
        "student.optimizer.betas=1.5,0.9: optimizer = adam(betas=(1.5, 0.9))",
        "Invalid beta parameter at index 0: 1.5; change that value",
    ),
    ("student.optimizer=adam", "student.optimizer.betas=0.9"): ("adam(betas=(0.9,))", "change that value"),
    ("student.optimizer=timm:muon", "student.optimizer.algo=adam"): ("algo='adam'", "Invalid algo: adam"),
    ("student.optimizer=nadam", "student.optimizer.lr=0"): ("lr = 0", "must be greater than 0"),
    "seeds.first=1": ("unknown config field 'seeds.first'", "no fields"),
    "search.trials=3": ("unknown config field 'search.trials'", "none has no fields"),
    "compare=none": ("compare=none", "unknown method 'none'"),
    "data.name=mnist": (
        "data.name=mnist",
        "digits, imagenet, tiny_imagenet, folder:PLACE, parquet:PLACE, webdataset:PLACE and packed:PLACE",
    ),
    "data.name=cifra10": ("unknown dataset name 'cifra10'", "did you mean 'cifar10'?"),
    "data.name=floder:flowers": ("unknown dataset name 'floder:flowers'", "did you mean 'folder'?"),
    "data.name=folder:": ("dataset name 'folder:' names no folder", "folder:flowers"),
    "data.name=folder:nowhere": ("data/nowhere: no such folder", "train/<class>/*.png"),
    "data.name=parquet:/nowhere": ("/nowhere: no such folder", "train.parquet"),
    # A name where an object with fields is required.
    "student=resnet18": ("student=resnet18: 'resnet18' cannot stand for Recipe", "which has the fields model, epochs"),
    "teacher=recipe": ("teacher=recipe: 'recipe' cannot stand for Recipe", "set these instead"),
    "data=digits": ("data=digits: 'digits' cannot stand for Data", "which has the fields name"),
    "workers=2": ("workers=2: '2' cannot stand for Workers", "which has the fields"),
    "search=asha": ("search=asha: 'asha' cannot stand for Search", "which has the fields space"),
    "student.augmentation=none": ("'none' cannot stand for Augmentation", "which has the fields"),
    "student=none": ("'none' cannot stand for Recipe", "which has the fields"),
    "teacher_source=disk": ("teacher_source=disk", "one of auto, live, cache"),
    "cached_classes=0": ("cached_classes = 0", "at least 1, all, or none"),
    "cached_classes=many": ("cached_classes=many", "an integer or one of all or none"),
    "cached_classes=70000": ("cached_classes = 70000", "at most 65,536"),
    ("cached_classes=16", "method=dkd", "teacher_source=cache"): ("cached_classes = 16", "set it to all"),
    ("teacher_source=cache", "method=at"): ("teacher_source = 'cache'", "use live or auto"),
    ("teacher_seed=5", "teacher_seeds=0,1"): ("teacher_seed = 5", "remove one of them"),
    ("teacher_checkpoint=a.pth", "teacher_seeds=0,1"): ("teacher_checkpoint = 'a.pth'", "remove one of them"),
    ("student.model.width=8", "student.model=vit6"): ("width = 8 in ViT", "multiple of heads = 3"),
    "student.model=timm:\ud800": ("unknown timm model '\\ud800'",),
    "compare=kd": ("compare = (KD(alpha=0.5, temperature=4.0),)", "twice"),
    "seeds=0..4": ("seeds=0..4", "values separated by commas"),
    "data.crop_padding=100": ("crop_padding = 100", "must be at most 32"),
    # Values of another type.
    "method.alpha=half": ("method.alpha=half", "a number"),
    "method.alpha=nan": ("alpha = nan", "must be a finite number"),
    "student.optimizer.lr=1e400": ("student.optimizer.lr=1e400", "must be a finite number"),
    "student.epochs=2.5": ("student.epochs=2.5", "an integer"),
    "student.epochs=1e3": ("student.epochs=1e3", "an integer"),
    "student.epochs=1__0": ("student.epochs=1__0", "an integer"),
    "student.epochs=\N{ARABIC-INDIC DIGIT THREE}": ("student.epochs=", "an integer"),
    "student.compile=maybe": ("student.compile=maybe", "true or false"),
    "student.precision=fp8": ("student.precision=fp8", "one of auto, fp32, tf32, bf16, fp16"),
    "teacher_seeds=one": ("teacher_seeds=one", "an integer"),
    "seeds=0,,1": ("seeds=0,,1", "values separated by commas"),
    "seeds=0\n1": ("seeds=0\\n1", "values separated by commas"),
    # Values out of range.
    "method.alpha=1.5": ("alpha = 1.5", "must lie in [0, 1]"),
    "method.temperature=0": ("temperature = 0", "must be greater than 0"),
    "method.temperature=-4": ("temperature = -4", "must be greater than 0"),
    "method.temperature=1e300": ("temperature = 1e+300", "must be at most 1e+12"),
    "method.temperature=1e-300": ("temperature = 1e-300", "must be 0, or have a magnitude of at least 1e-12"),
    "student.optimizer.lr=-0.0": ("student.optimizer.lr=-0.0", "must be greater than 0"),
    "student.ema_decay=1": ("ema_decay = 1.0", "must lie in [0, 1), or none"),
    "student.gradient_accumulation=3": ("gradient_accumulation = 3", "must divide batch_size = 128"),
    "teacher.gradient_accumulation=0": ("gradient_accumulation = 0", "must be at least 1"),
    ("student.gradient_accumulation=128", "method=rkd"): (
        "student.batch_size = 128 in 128 passes (gradient_accumulation)",
        "--set student.batch_size=384 or more",
    ),
    ("student.gradient_accumulation=128", "workers.count=2"): (
        "count = 2",
        "cannot share student.batch_size = 128 / gradient_accumulation = 128 equally",
    ),
    "student.class_weights=1,2,3": ("student.class_weights has 3 numbers", "digits has 10 classes"),
    "student.class_weights=inverse": ("student.class_weights=inverse", "one of none, balanced"),
    "student.class_weights=0,0": ("class_weights = (0.0, 0.0)", "not all 0"),
    ("student.class_weights=balanced", "student.sampling=balanced"): ("would balance twice", "use one of them"),
    ("student.repeats=3", "student.sampling=balanced"): ("repeats = 3", "cannot be combined with sampling = balanced"),
    ("student.repeats=3", "teacher_source=cache"): ("student.repeats = 3", "set it to 1, or use live or auto"),
    "student.sampling=random": ("student.sampling=random", "one of shuffle, balanced"),
    "student.patience=0": ("patience = 0", "must be at least 1, or none"),
    "student.epochs=0": ("epochs = 0", "must be at least 1"),
    "student.epochs=1000000000000": ("epochs = 1000000000000", "must be at most 100,000"),
    f"teacher.epochs={HUGE}": (f"epochs = {HUGE}", "must be at most 100,000"),
    f"teacher.epochs={'9' * 5000}": ("teacher.epochs=999", "(5000 characters)", "an integer"),
    "student.model.width=4": ("width = 4", "at least 8"),
    "student.model.width=100000000": ("width = 100000000", "must be at most 65,536"),
    "student.model.width=60000": ("student.model = resnet8-w60000", "weights take", "GB are free", "smaller model"),
    "student.model.blocks=5000,1,1,1": ("blocks = (5000, 1, 1, 1)", "must be at most 200"),
    "student.model.blocks=1,1": ("blocks = (1, 1)", "four stages"),
    "student.schedule.warmup_epochs=5": ("warmup_epochs = 5.0", "must be below the recipe's 1 epoch"),
    "student.augmentation.randaugment=99999999999,9": (
        "randaugment = (99999999999, 9)",
        "with 1 to 100 operations",
    ),
    "student.augmentation.cutout=99999999999": ("cutout = 99999999999", "must be less than 16 pixels", "cutout=8"),
    "student.augmentation.erasing=2": ("student.augmentation.erasing=2", "erasing = 2.0", "must lie in [0, 1]"),
    "student.augmentation.erasing_fill=mean": ("erasing_fill = 'mean'", "no effect while erasing = 0", "erasing=0.25"),
    "student.batch_size=1001": ("student.batch_size = 1001", "must be at most 1,000", "--set student.batch_size=1000"),
    "teacher.batch_size=5000": ("teacher.batch_size = 5000", "must be at most 1,000"),
    f"teacher.batch_size={HUGE}": (f"batch_size = {HUGE}", "must be at most 1,000,000"),
    "data.val_images=1200": ("data.val_images = 1200", "1,200 training images", "--set data.val_images=120"),
    f"data.val_images={HUGE}": (f"val_images = {HUGE}", "must be at most"),
    "data.student_images=1001": ("data.student_images = 1001", "must be at most 1,000, the number of images outside"),
    "data.image_size=7": ("image_size", "7", "1, 2, 4, 8, 16"),
    "data.image_size=100000": ("image_size = 100000", "must be at most 1,024"),
    "data.split_seed=-1": ("split_seed = -1", "must be at least 0"),
    "seeds=0,0": ("seeds = (0, 0)", "repeats a seed"),
    "seeds=": ("seeds", "at least one"),
    "seeds=18446744073709551616": ("seeds = (18446744073709551616,)", "must be at most 4,294,967,295"),
    "teacher_seed=-1": ("teacher_seed = -1", "must be at least 0"),
    "teacher_seeds=1,1": ("teacher_seeds = (1, 1)", "repeats a seed"),
    "teacher_seeds=0,-1": ("teacher_seeds = (0, -1)", "must be at least 0"),
    "teacher_checkpoint=no/such.pth": ("'no/such.pth' does not exist",),
    "workers.gpus=1.5": ("gpus = 1.5", "fraction below 1, or whole"),
    "workers.gpus=1e9": ("gpus = 1000000000.0", "must lie in [0, 10000], or none"),
    "workers.count=0": ("count = 0", "must be at least 1"),
    "workers.count=7": ("count = 7", "cannot share teacher.batch_size", "equally"),
    "workers.min_count=2": ("min_count = 2", "must lie in [1, count = 1]"),
    "family=data": ("family = 'data'", "not the name of a field"),
    f"family={'a' * 300}": ("family = 'aaa", "at most 64 characters"),
    # Text that is not a setting, and settings without effect.
    "nonsense": ("--set nonsense", "FIELD=VALUE"),
    "=1": ("--set =1", "FIELD=VALUE"),
    "tiny=1": ("--set tiny=1", "must name a field, such as tiny."),
    "cnn.seeds=1": ("unknown config field 'cnn.seeds'", "families here are tiny"),
    ("student.epochs=3", "student.schedule=multistep", "student.schedule.milestones=4,8"): (
        "student.epochs=3, student.schedule=multistep, student.schedule.milestones=4,8: milestones = (4.0, 8.0)",
        "after the last of 3 epochs",
    ),
    ("student.optimizer.momentum=0.5", "student.optimizer=adamw"): (
        "unknown config field 'student.optimizer.momentum': AdamW has",
    ),
    ("method.alpha=0.3", "method=dist"): ("unknown config field 'method.alpha': DIST has",),
}


def command(*arguments: str, text: str = EXPERIMENT) -> Make:
    """Return a command with its flags. The word 'FILE' is replaced by the file of the experiment `text`."""
    return lambda folder: [experiment_file(folder, text) if word == "FILE" else word for word in arguments]


FLAGS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "an unknown model as a flag": (
        command("train-teacher", "--model", "resnet81", "--experiment", "FILE"), ("unknown model 'resnet81'",)
    ),
    "no epochs as a flag": (
        command("train-teacher", "--epochs", "0", "--experiment", "FILE"), ("epochs", "must be at least 1")
    ),
    "10**12 epochs as a flag": (
        command("train-student", "--epochs", str(10**12), "--experiment", "FILE"), ("must be at most 100,000",)
    ),
    "an alpha of 2 as a flag": (
        command("distill", "--alpha", "2", "--experiment", "FILE"), ("alpha", "must lie in [0, 1]")
    ),
    "the labels' weight for a method that gives alpha another meaning": (
        command("distill", "--alpha", "0.3", "--set", "method=dkd", "--experiment", "FILE"),
        ("--alpha 0.3", "method 'dkd' has no alpha that weights the labels"),
    ),
    "a temperature of 0 as a flag": (
        command("distill", "--temperature", "0", "--experiment", "FILE"), ("temperature", "greater than 0")
    ),
    "a teacher's checkpoint that does not exist": (
        command("distill", "--teacher-checkpoint", "gone.safetensors", "--experiment", "FILE"),
        ("'gone.safetensors' does not exist",),
    ),
    "a flag and a setting of one field": (
        command("distill", "--alpha", "0.3", "--set", "method.alpha=0.4", "--experiment", "FILE"),
        ("--alpha 0.3 and --set method.alpha=0.4 set the same field",),
    ),
    "a flag and a setting of one field behind its family": (
        command("distill", "--epochs", "3", "--set", "tiny.student.epochs=4", "--experiment", "FILE"),
        ("--epochs 3 and --set tiny.student.epochs=4 set the same field",),
    ),
    "a distance between embeddings and another method": (
        command("distill", "--feature-distill", "mse", "--set", "method=dkd", "--experiment", "FILE"),
        ("--feature-distill mse and --set method=dkd set the same field",),
    ),
    "a distance as a flag and another as a setting": (
        command("distill", "--feature-distill", "mse", "--set", "method.distance=cosine", "--experiment", "FILE"),
        ("--feature-distill mse and --set method.distance=cosine set the same field",),
    ),
    "a temperature for a method that has none": (
        command("distill", "--temperature", "3", "--set", "method=hard_labels", "--experiment", "FILE"),
        ("unknown config field 'method.temperature': HardLabels has",),
    ),
    "a teacher source as a flag and as a setting": (
        command("plan", "FILE", "--teacher-source", "live", "--set", "teacher_source=cache"),
        ("--teacher-source live and --set teacher_source=cache set the same field",),
    ),
    "a search that a setting removes": (
        command("tune", "FILE", "--set", "search=none", text=f"{EXPERIMENT}\nfrom dataclasses import replace\n"
                "from raykd import Search, uniform\n"
                "experiment = replace(experiment, search=Search({'method.alpha': uniform(0, 1)}))\n"),
        ("has no search", "search=Search"),
    ),
    "trials of an experiment without a search": (
        command("tune", "FILE", "--trials", "3"), ("has no search", "search=Search")
    ),
}  # fmt: skip


def searched(space: str, more: str = "") -> str:
    """Return the text of the small experiment with a search over `space`."""
    return (
        f"{EXPERIMENT}\nfrom dataclasses import replace\nfrom raykd import Search, choice, integer, uniform\n"
        f"experiment = replace(experiment, search=Search({space}{more}))\n"
    )


SPACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a grid of 10**9 integers": (
        searched("{'student.epochs': integer(1, 10**9)}", ", sampler='grid'"), ("grid of 1,000,000,000 configurations",)
    ),
    "a grid that is a product of many": (
        searched("{f'method.x{i}': choice(*range(100)) for i in range(50)}", ", sampler='grid'"), ("is a grid of 1",)
    ),
    "epochs searched up to 10**9": (
        searched("{'student.epochs': integer(1, 10**9)}"), ("epochs = 1000000000", "must be at most 100,000")
    ),
    "a range that ends with 10**30": (
        searched("{'student.epochs': integer(1, 10**30)}"), ("high = 1000000000000000000000000000000", "at most")
    ),
    "a range of NaN": (searched("{'method.alpha': uniform(0, float('nan'))}"), ("high = nan", "finite")),
    "10**9 trials": (searched("{'method.alpha': uniform(0, 1)}", ", trials=10**9"), ("must be at most 100,000",)),
    "10**9 trials side by side": (
        searched("{'method.alpha': uniform(0, 1)}", ", max_concurrent=10**9"), (
            "max_concurrent = 1000000000",
            "at most 100,000",
        )
    ),
    "a search named with 300 letters": (
        searched("{'method.alpha': uniform(0, 1)}", ", name='a' * 300"), ("name = 'aaa", "at most 64 characters")
    ),
    "10,000 combinations of shapes": (
        searched("{'student.model.blocks': choice(*(f'{i},1,1,1' for i in range(1, 101))), "
                 "'student.model.width': choice(*range(8, 108))}"),
        ("student.model.blocks, student.model.width make 10,000 combinations",),
    ),
    "a choice that no model has, at --plan": (
        searched("{'student.model.width': choice(8, 60000)}"), ("cannot be 60000", "GB of memory")
    ),
    "a space that is a list": (searched("['method.alpha']"), ("space = ['method.alpha']", "must be a mapping")),
    "a space of a method without one of its fields": (
        searched("{'method.temperature': uniform(1, 2), 'method': choice('kd', 'hard_labels')}"),
        ("method hard_labels cannot be trained", "unknown config field 'method.temperature'"),
    ),
}  # fmt: skip

FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "an experiment file without an experiment": ("x = 1\n", ("defines no experiment", "experiment = Experiment(...)")),
    "an experiment that is a number": ("experiment = 3\n", ("defines no experiment", "experiment is of type int")),
    "experiments that are None": ("experiments = None\n", ("defines no experiment",)),
    "experiments that are empty": ("experiments = ()\n", ("defines no experiment",)),
    "experiments that are a dictionary": (
        f"{EXPERIMENT}\nexperiments = {{'a': experiment}}\n", ("experiments is of type dict", "a tuple of Experiment")
    ),
    "experiments that are text": ("experiments = 'cnn'\n", ("experiments is of type str",)),
    "experiments with a number among them": (
        f"{EXPERIMENT}\nexperiments = (experiment, 3)\n", ("experiments has an item that is of type int",)
    ),
    "experiments without end": (
        f"{EXPERIMENT}\nfrom itertools import repeat\nexperiments = repeat(experiment)\n", ("more than 1,000 items",)
    ),
    "experiments from a generator that fails": (
        f"{EXPERIMENT}\nexperiments = (1 / 0 for _ in range(3))\n", ("line 9", "ZeroDivisionError: division by zero")
    ),
    "an experiment that is the class": (
        "from raykd import Experiment\nexperiment = Experiment\n", ("experiment is the class Experiment",)
    ),
    "two experiments of one family": (
        f"{EXPERIMENT}\nexperiments = (experiment, experiment)\n", ("family = 'tiny'", "two experiments", "rename one")
    ),
    "experiments with other workers": (
        f"{EXPERIMENT}\nfrom dataclasses import replace\nfrom raykd import Workers\n"
        "experiments = (experiment, replace(experiment, family='other', workers=Workers(cpus=1)))\n",
        ("workers differ between experiments",),
    ),
    "a file that imports a missing module": (
        "import no_such_module\n", ("tiny.py' fails at line 1 with ModuleNotFoundError",)
    ),
    "a file that is not Python": ("\nexperiment = (\n", ("tiny.py' fails at line 2 with SyntaxError",)),
    "a file that is not UTF-8": (b"# \xff\nx = 1\n", ("tiny.py' fails with SyntaxError: invalid or missing encoding",)),
    "a file with a null byte": (b"x = 1\n\0\n", ("tiny.py' has null bytes",)),
    "a file that calls sys.exit(0)": ("import sys\nsys.exit(0)\n", ("tiny.py' ends the process at line 2", "code 0")),
    "a file that raises SystemExit with text": ("raise SystemExit('bye')\n", ("ends the process at line 1", "'bye'")),
    "a file that raises BaseException": (
        "\nraise BaseException('stop')\n", ("fails at line 2 with BaseException: stop",)
    ),
    "a file that is cancelled": (
        "import asyncio\nraise asyncio.CancelledError('x')\n", ("fails at line 2 with CancelledError: x",)
    ),
    "a file that raises GeneratorExit": ("raise GeneratorExit\n", ("fails at line 1 with GeneratorExit",)),
    "experiments that are a number": ("experiments = 5\n", ("experiments is of type int", "a tuple of Experiment")),
    "experiments whose generator fails": ("experiments = (1 / 0 for _ in range(3))\n", ("ZeroDivisionError",)),
    "a file that is UTF-16": ("x = 1\n".encode("utf-16"), ("has null bytes", "copy it again")),
    "a file of 100,000 signs": (f"x = {'-' * 100_000}1\n", ("fails with MemoryError",)),
    "a file that calls itself without end": (
        "def f():\n    return f()\n\nf()\n", ("tiny.py' fails at line 2 with RecursionError",)
    ),
    "a file that reads itself": (
        "from raykd.cli.experiment_file import load_experiments\nload_experiments(__file__)\n", ("RecursionError",)
    ),
    "a file that imports itself by its name": (
        "from tiny import experiment\n", ("fails at line 1 with ImportError", "circular import")
    ),
    "a file whose error has many lines": ("raise ValueError('one\\ntwo')\n", ("line 1 with ValueError: one",)),
    "a file whose error cannot be printed": (
        "class Bad(Exception):\n    def __str__(self):\n        return 1\n\nraise Bad\n",
        ("line 5 with Bad: no reason",),
    ),
    "a file that runs its experiment while it is read": (
        f"{EXPERIMENT}\nfrom raykd import main\nmain(experiment)\n", ("line 10", "__name__ == '__main__'")
    ),
    "a file with an unknown model": (
        "from raykd import Recipe\nRecipe('resnet81')\n", ("tiny.py', line 2", "unknown model 'resnet81'")
    ),
    "a file with an alpha of 2": ("from raykd import KD\nKD(alpha=2)\n", ("tiny.py', line 2", "alpha = 2")),
    "a file with an unknown field": (
        "from raykd import KD\nKD(alhpa=2)\n",
        ("unknown field 'alhpa': KD has alpha, temperature; did you mean 'alpha'?",),
    ),
    "a number of 5,000 digits in a file": (
        "from raykd import Recipe\nRecipe('resnet8', epochs=10**5000)\n",
        ("epochs = a value of type int that cannot be printed", "must be at most 100,000"),
    ),
    "a rate of 10**400 in a file": ("from raykd import SGD\nSGD(lr=10**400)\n", ("lr = inf", "finite")),
    "a million seeds in a file": (
        f"{EXPERIMENT}\nfrom dataclasses import replace\nexperiment = replace(experiment, seeds=range(10**6))\n",
        ("seeds = range(0, 1000000)", "must be values separated"),
    ),
    "2,000 seeds in a file": (
        f"{EXPERIMENT}\nfrom dataclasses import replace\nexperiment = replace(experiment, seeds=tuple(range(2000)))\n",
        ("seeds = (0, 1, 2", "must have at most 1,000 values"),
    ),
}  # fmt: skip


def written(text: str | bytes) -> Make:
    def make(folder: Path) -> Sequence[str | Path]:
        path = folder / "tiny.py"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return ["plan", path]

    return make


def pipe(folder: Path) -> Sequence[str | Path]:
    os.mkfifo(folder / "tiny.py")
    return ["plan", folder / "tiny.py"]


PLACES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "an experiment file that is missing": (lambda folder: ["plan", "no/such.py"], ("'no/such.py' does not exist",)),
    "an experiment file that is a folder": (
        lambda folder: ["plan", folder], ("is a folder", "experiments' lists the bundled ones")
    ),
    "an experiment file that is a pipe": (pipe, ("is a pipe, socket or device",)),
    "an experiment file with a name of 5,000 letters": (
        lambda folder: ["plan", "a" * 5000 + ".py"], ("experiment file 'aaa", "File name too long")
    ),
    "an experiment with a name of 5,000 letters": (
        lambda folder: ["plan", "a" * 5000], ("unknown experiment 'aaa", "(5000 characters)", "known are benchmark_")
    ),
    "an experiment with a typing mistake in its name": (
        lambda folder: ["plan", "distil_cnn"], ("unknown experiment 'distil_cnn'", "did you mean 'distill_cnn'?")
    ),
    "an experiment file with a null byte in its name": (
        lambda folder: ["plan", "a\0.py"], ("experiment file 'a\\x00.py'", "null ")
    ),
    "weights with a name of 5,000 letters": (
        plan(f"teacher_checkpoint={'a' * 4000}"), ("weights file", "File name too long")
    ),
    "weights that are a folder": (plan("teacher_checkpoint=/"), ("weights file '/' is a folder",)),
    "weights that are a device": (
        plan("student.model.weights=/dev/zero"), ("'/dev/zero' is a pipe, socket or device",)
    ),
}  # fmt: skip


HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar\nimport torch\nfrom raykd import KD, Method\n"


def method(
    body: str = "",
    needs: str = 'frozenset({"logits"})',
    weights: str = '{"ce": 1.0, "l1": 1.0}',
    terms: str = '{"l1": (student.logits - teacher.logits).abs().mean()}',
) -> str:
    """Return the text of a file with a custom method. KIND is replaced by a unique kind."""
    return (
        f"{HEAD}\n@dataclass(frozen=True)\nclass Mine(Method):\n    kind: ClassVar[str] = 'KIND'\n"
        f"    needs: ClassVar = {needs}\n{body}\n    def weights(self, epoch):\n        return {weights}\n\n"
        f"    def terms(self, student, teacher, targets, adapter):\n        return {terms}\n"
    )  # fmt: skip


METHODS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "a method with an unknown need": (
        method(needs='frozenset({"logit"})'),
        ("'logit' is not one of", "did you mean 'logits'?"),
    ),
    "a method whose student_needs are text": (
        method("    student_needs = 'features'\n"),
        ("student_needs = 'features'", "must be a frozenset"),
    ),
    "a method that needs an unknown output of the student": (
        method("    student_needs = {'maps'}\n"),
        ("student_needs = {'maps'}: 'maps' is not one of logits, embedding, features",),
    ),
    "a method whose needs are text": (method(needs='"logits"'), ("needs = 'logits'", "must be a frozenset")),
    "a method that reads a teacher and needs none": (
        method(needs="frozenset()"),
        (
            "its terms() fails at line 15 with RuntimeError",
            "it receives the outputs in `needs`: none; list",
        ),
    ),
    "a method with neither needs nor terms": (
        method(needs="frozenset()", weights='{"ce": 1.0}', terms="{}"),
        ("terms() returns no term that depends on the student",),
    ),
    "weights of NaN": (
        method(weights='{"ce": 1.0, "l1": float("nan")}'),
        ("weights(0) weights 'l1' by nan", "finite"),
    ),
    "weights that are infinite": (
        method(weights='{"ce": 1.0, "l1": float("inf")}'),
        ("weights 'l1' by inf", "finite"),
    ),
    "weights of 400 digits": (method(weights='{"ce": 1.0, "l1": 10**400}'), ("weights 'l1' by 1000", "finite number")),
    "weights that are NaN in a later epoch": (
        method(weights='{"ce": 1.0, "l1": float("nan") if epoch == 0 else 1.0}'),
        ("weights 'l1' by nan",),
    ),
    "weights that are cancelled": (
        method(weights="(_ for _ in ()).throw(GeneratorExit)"),
        ("its weights(epoch) fails at line 12 with Gener",),
    ),
    "a term without data": (
        method(terms='{"l1": student.logits.mean().to("meta")}'),
        ("returns 'l1' as a tensor without data",),
    ),
    "a term whose gradient is NaN": (
        method(terms='{"l1": (student.logits * 0).sqrt().mean()}'),
        ("the gradient of its term 'l1' is NaN or infinite", "away from 0"),
    ),
    "a term whose gradient fails": (
        method(
            terms='{"l1": student.logits.exp().mul(1).mean() + (x := student.logits.exp()).mul(x).mean() '
            "+ x.zero_().mean()}"
        ),
        ("the gradient of its term 'l1' fails with RuntimeError",),
    ),
    "a field that is a tensor": (
        method("    t: object = torch.ones(3)\n"),
        ("t = tensor([1., 1., 1.])", "cannot be written into run.json"),
    ),
    "a field that is a function": (
        method("    t: object = print\n"),
        ("t = <built-in function print>", "give the field numbers or text"),
    ),
    "a kind of 300 letters": (
        method().replace("'KIND'", repr("a" * 300)),
        ("defines no valid kind", "at most 100 characters"),
    ),
    "a method file with a relative import": (
        "from . import other\n",
        ("mine.py' has a relative import (line 1)", "add an empty __init__.py"),
    ),
    "a method whose needs are None": (method(needs="None"), ("needs = None", "must be a frozenset")),
    "weights that are text": (method(weights='{"ce": "1", "l1": 1}'), ("weights 'ce' by '1'", "finite number")),
    "weights that are tensors": (
        method(weights='{"ce": torch.ones(())}'),
        ("weights 'ce' by tensor(1.)", "finite number"),
    ),
    "weights that are a list": (
        method(weights='["ce", "l1"]'),
        ("weights(0) is ['ce', 'l1']", "weight of each term"),
    ),
    "weights that are empty": (method(weights="{}"), ("weights(0) is {}", "weight of each term")),
    "weights that fail": (method(weights="1 / 0"), ("weights(epoch) fails at line 12 with ZeroDivisionError",)),
    "weights that end the process": (method(weights="exit(0)"), ("its weights(epoch) ends the process at line 12",)),
    "weights of a term that does not exist": (
        method(weights='{"ce": 1.0, "other": 1.0}'),
        ("weights(0) has 'other'", "terms() returns 'l1'"),
    ),
    "a term that is NaN": (
        method(terms='{"l1": student.logits.mean() * float("nan")}'),
        ("returns 'l1' as nan", "finite"),
    ),
    "a term of each image": (
        method(terms='{"l1": student.logits.mean(1)}'),
        ("returns 'l1' as a tensor", "shape [8]"),
    ),
    "a term that is a number": (method(terms='{"l1": 3}'), ("returns 'l1' as 3", "must be a tensor")),
    "a term of integers": (method(terms='{"l1": student.logits.argmax()}'), ("torch.int64", "must be one float")),
    "terms that are None": (method(terms="None"), ("terms() returns None",)),
    "terms without the student": (method(terms='{"l1": student.logits.detach().mean()}'), ("depends on the student",)),
    "a term with the name of a column": (
        method(terms='{"l1": student.logits.mean(), "loss": student.logits.mean()}'),
        ("returns 'loss'", "rename the term"),
    ),
    "terms that fail": (
        method(terms='{"l1": student.embeddings}'),
        ("its terms() fails at line 15 with AttributeError",),
    ),
    "terms of embeddings that it does not need": (
        method(terms='{"l1": (student.embedding - teacher.embedding).mean()}'),
        ("its terms() fails at line 15 with",),
    ),
    "logits for the labels of too few images": (
        method("    def supervised_logits(self, student):\n        return student.logits[:1]\n"),
        ("supervised_logits() returns shape (1, 10)", "must return logits (8, 10)"),
    ),
    "a check that fails": (
        method("    def check(self):\n        self.require(False)\n"),
        ("check(), fails at line 11 with TypeError",),
    ),
    "a check that refuses the defaults": (
        method("    def check(self):\n        self.require(False, 'kind', 'must be another')\n"),
        ("kind = 'custom_", "must be another"),
    ),
    "a field of an unknown type": (method("    size: 'Nothing' = 1\n"), ("one of its fields", "NameError")),
    "a field without a default": (method("    size: int\n"), ("its field 'size' has no default", "give it one")),
    "a method file that is not Python": ("class Mine(\n", ("fails at line 1 with SyntaxError",)),
    "a method file that is not UTF-8": (b"# \xff\n", ("cannot be read (not valid UTF-8)",)),
    "a method file that calls sys.exit(0)": ("import sys\nsys.exit(0)\n", ("ends the process at line 2",)),
    "a method file with a null byte": (b"x = 1\0\n", ("mine.py' fails", "null bytes")),
    "a class that is not a method": (f"{HEAD}\nclass Mine:\n    pass\n", ("'Mine' in method file", "is no method")),
    "a method that is an object": (f"{HEAD}\nMine = KD()\n", ("'Mine' in method file", "is no method")),
}


def custom(number: int, text: str | bytes) -> Make:
    """Return `raykd plan` with the custom method in `text`."""

    def make(folder: Path) -> Sequence[str | Path]:
        raw = text.encode() if isinstance(text, str) else text
        (folder / "mine.py").write_bytes(raw.replace(b"KIND", f"custom_{number}".encode()))
        return ["plan", experiment_file(folder), "--set", f"method={folder / 'mine.py'}:Mine"]

    return make


def _as_tuple(settings: str | tuple[str, ...]) -> tuple[str, ...]:
    return (settings,) if isinstance(settings, str) else settings


def _title(settings: str | tuple[str, ...]) -> str:
    return f"--set {' --set '.join(_as_tuple(settings))[:60]}"


CASES = [
    *(BadInput(_title(settings), plan(*_as_tuple(settings)), parts) for settings, parts in SETTINGS.items()),
    *(BadInput(name, make, parts) for name, (make, parts) in (FLAGS | PLACES).items()),
    *(BadInput(name, written(text), parts) for name, (text, parts) in (SPACES | FILES).items()),
    *(BadInput(name, custom(number, text), parts) for number, (name, (text, parts)) in enumerate(METHODS.items())),
]  # fmt: skip
