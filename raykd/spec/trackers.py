"""The trackers that an experiment may name, and what each requires."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

from raykd.errors import ConfigError, did_you_mean

TENSORBOARD, NONE = "tensorboard", "none"
# The package that an optional tracker imports, and its name for pip. MLflow's SQLite store also requires SQLAlchemy and
# Alembic, which Optuna installs.
PACKAGES = {"mlflow": ("mlflow", "mlflow-skinny"), "wandb": ("wandb", "wandb")}
TRACKERS = (TENSORBOARD, *PACKAGES, NONE)


def trackers_named(value: Any) -> Any:
    """Return the names in a text such as 'mlflow,wandb' as a tuple; any other value unchanged."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def require_known_trackers(names: tuple[str, ...]) -> None:
    """Raise ConfigError for an unknown or repeated name, and for 'none' beside others."""
    subject = f"tracker = {','.join(names)}"
    if not names:
        raise ConfigError(f"{subject}: must name one of {', '.join(TRACKERS)}; use none to log nowhere")
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"{subject}: '{name}' is not one of {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{subject}: names a tracker twice; remove one")
    if NONE in names and len(names) > 1:
        raise ConfigError(f"{subject}: '{NONE}' cannot be combined with other trackers; remove one of them")


def require_installed(names: Collection[str]) -> None:
    """Raise ConfigError, with the command that installs it, for a tracker whose package is missing."""
    for name in names:
        package, install = PACKAGES.get(name, ("", ""))
        if package and not _is_installed(package):
            raise ConfigError(f"tracker = {name}: requires a package that is missing: pip install {install}")


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported. A folder of its name, which W&B creates, has no origin."""
    found = find_spec(package)
    return found is not None and found.origin is not None
