"""A term becomes a column of the history. The name of another column is refused before anything starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from small_runs import experiment, recipe, run_of, train
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods import KD, Method
from raykd.methods.method import RESERVED_TERMS, Need
from raykd.outputs import HISTORY_COLUMNS, Outputs, Targets
from raykd.store.run_folder import RunFolder


@dataclass(frozen=True)
class Named(Method):
    """A method with the term `term` from epoch `start` on, and a term `extra` without a weight."""

    kind: ClassVar[str] = "own_named"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    term: str = "gap"
    start: int = 0
    extra: str = ""

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0} | ({self.term: 1.0} if epoch >= self.start else {})

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        gap = (student.logits - teacher.logits).abs().mean()
        return {self.term: gap} | ({self.extra: gap} if self.extra else {})


@dataclass(frozen=True)
class Listed(Named):
    """A method with weights for two epochs only."""

    kind: ClassVar[str] = "own_listed"

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0, self.term: [0.5, 1.0][epoch]}


@pytest.mark.parametrize("name", RESERVED_TERMS)
def test_term_with_a_reserved_name_is_refused_in_one_line(name: str) -> None:
    for changes in ({"method": Named(term=name)}, {"compare": (Named(term=name),)}):
        with pytest.raises(ConfigError) as caught:
            experiment(**changes)
        message = str(caught.value)
        assert message.startswith(f"method = Named: weights(0) names a term '{name}', which is a column of ")
        assert message.endswith("; rename the term") and "\n" not in message


def test_terms_of_later_epochs_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"weights\(2\) names a term 'lr'"):
        experiment(method=Named(term="lr", start=2))
    assert experiment(method=Named(term="lr", start=3)), "no epoch has it"


def test_weights_that_fail_in_a_later_epoch_are_refused_before_training() -> None:
    assert experiment(method=Listed(), student=recipe(epochs=2))
    with pytest.raises(
        ConfigError, match=r"method = Listed: its weights\(epoch\) fails at line \d+ with IndexError: list index"
    ):
        experiment(method=Listed())


def test_reserved_names_are_the_columns_of_the_history(tmp_path: Path) -> None:
    run, folder = run_of("distilled", method=Named(term="gap")), RunFolder(tmp_path / "run")
    train(run, folder)
    columns = set(folder.history()[0]) - {"ce", "gap"}
    assert columns == set(HISTORY_COLUMNS)


@pytest.mark.parametrize("name", ["ce", "top1", "loss"])
def test_standard_terms_cannot_be_overwritten(name: str, tmp_path: Path) -> None:
    run, folder = run_of("distilled", method=Named(extra=name)), RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"method = Named: terms\(\) returns '{name}', which raykd computes"):
        train(run, folder)
    assert folder.require_record().status == "failed"


def test_other_term_names_are_accepted() -> None:
    assert experiment(method=Named(term="val_gap"), compare=(KD(),)).method.weights(0) == {"ce": 1.0, "val_gap": 1.0}
