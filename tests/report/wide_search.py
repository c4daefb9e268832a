"""A finished search over eight fields of every kind, with 40 trials: done, pruned, and failed."""

from pathlib import Path

from search_folders import ExampleSearch, Outcome, learning_curve, make_search

from raykd.spec.search import Search, choice, integer, loguniform, uniform
from raykd.store.study import SearchTrial

SPACE = {
    "method": choice("kd", "dkd", "methods/my_relational_method.py:WithAVeryLongName"),
    "method.alpha": uniform(0, 1),
    "method.temperature": loguniform(1, 20),
    "student.optimizer.lr": loguniform(1e-4, 0.3),
    "student.optimizer.weight_decay": choice(0.0, 1e-4, 5e-4),
    "student.optimizer.nesterov": choice(True, False),
    "student.model.width": integer(8, 64),
    "student.batch_size": choice(32, 64, 128, 256, 1024),
}
DEFAULT_CONFIGURATION = {
    "method": "kd",
    "method.alpha": 0.5,
    "method.temperature": 4.0,
    "student.optimizer.lr": 0.1,
    "student.optimizer.weight_decay": 5e-4,
    "student.optimizer.nesterov": False,
    "student.model.width": 32,
    "student.batch_size": 128,
}


def outcome(trial: SearchTrial) -> Outcome:
    """Fail trials 7 and 20 (the second without a value), and stop every trial with a poor learning rate early."""
    values = trial.configuration
    top = 90 - 40 * (values["method.alpha"] - 0.3) ** 2 - 30 * (values["student.optimizer.lr"] - 0.05) ** 2
    top -= values["method.temperature"] / 10
    if trial.number in (7, 20):
        return Outcome("failed", learning_curve(20, 2) if trial.number == 7 else (), reason="NaN in kd at epoch 2")
    if trial.number % 3:
        return Outcome("pruned", learning_curve(top, 1 if trial.number % 2 else 3))
    return Outcome("done", learning_curve(top, 9), seconds=9.0, rows=9)


def wide_search(root: Path) -> ExampleSearch:
    """Write the search below the results folder `root`."""
    search = Search(space=SPACE, trials=40, sampler="random", grace_epochs=1, confirm=0, name="wide")
    return make_search(root, search, outcome, default_configuration=DEFAULT_CONFIGURATION)
