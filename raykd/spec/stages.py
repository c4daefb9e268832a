"""The stages of an experiment, and their names in files."""

from typing import Literal

Stage = Literal["teacher", "baseline", "distilled"]
STAGES: tuple[Stage, ...] = ("teacher", "baseline", "distilled")

# Stage -> role: models_saved/<family>_<role>.safetensors.
ROLES: dict[Stage, str] = {"teacher": "teacher", "baseline": "student_baseline", "distilled": "student_kd"}

# Stage -> key in report.json.
REPORT_KEYS: dict[Stage, str] = {
    "teacher": "teacher_accuracy",
    "baseline": "student_accuracy_without_kd",
    "distilled": "student_accuracy_with_kd",
}
