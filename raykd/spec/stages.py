"""The stages of an experiment, their names in files, and the folders that no family may be named after."""

from typing import Literal

Stage = Literal["teacher", "baseline", "distilled"]
STAGES: tuple[Stage, ...] = ("teacher", "baseline", "distilled")

# The family of every teacher, whatever the experiment: its folder below the results is shared by all experiments, so
# that a teacher of the same recipe, data and seed is trained once.
TEACHERS = "teachers"

# Folders below the results that hold no family, and the folder of a search that holds the runs of its trials.
REPORT, SAVED_MODELS, EXPORTED, TRIALS = "report", "models_saved", "exported", "trials"
RESERVED = (TEACHERS, REPORT, SAVED_MODELS, EXPORTED, TRIALS)  # no family may have these names

# Stage -> role: models_saved/<family>_<role>.safetensors.
ROLES: dict[Stage, str] = {"teacher": "teacher", "baseline": "student_baseline", "distilled": "student_kd"}

# Stage -> key in report.json.
REPORT_KEYS: dict[Stage, str] = {
    "teacher": "teacher_accuracy",
    "baseline": "student_accuracy_without_kd",
    "distilled": "student_accuracy_with_kd",
}
