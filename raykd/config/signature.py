"""Fields of a configuration class from the parameters of a constructor: of a custom network, or of an optimizer."""

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from raykd.config.limits import Limit, declared_in
from raykd.config.typed import has_type
from raykd.errors import ConfigError

_SCALARS = (int, float, bool, str)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of `function` without evaluating its annotations.

    Python 3.14 evaluates them by default, and those for type checkers only may name what is not imported.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations in the body of `cls`, which Python 3.14 evaluates only on request."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return get_annotations(cls, format=Format.FORWARDREF)
    return inspect.get_annotations(cls)


def parameters_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of `__init__` by name, with resolved annotations where that is possible."""
    hints = _hints_of(cls)
    return {
        name: parameter.replace(annotation=hints.get(name, inspect.Parameter.empty))
        for name, parameter in signature_of(cls.__init__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self"
    }


def limits_of_parameters(cls: Any) -> dict[str, list[Limit]]:
    """Return the limits that the annotations of `__init__` declare, by parameter."""
    return {name: [*declared_in(hint)] for name, hint in _hints_of(cls, include_limits=True).items()}


def _hints_of(cls: Any, include_limits: bool = False) -> dict[str, Any]:
    try:
        return get_type_hints(cls.__init__, include_extras=include_limits)
    except Exception:  # noqa: BLE001 - annotations that exist for type checkers only
        return {}


def accepts_any(cls: Any) -> bool:
    """Return whether `__init__` has **kwargs."""
    return any(p.kind is p.VAR_KEYWORD for p in signature_of(cls.__init__).parameters.values())


def field_of(name: str, parameter: inspect.Parameter, where: str) -> tuple[str, Any, Any] | None:
    """Return (name, type, field) of a parameter; None if its type cannot be set from text, so it keeps its default.

    Raises ConfigError for such a parameter without a default. where: the class in the message.
    """
    default = parameter.default
    if isinstance(default, list):
        default = tuple(default)
    hint = _field_type(parameter.annotation, default)
    if default is inspect.Parameter.empty:
        if hint is None:
            raise ConfigError(
                f"{where}: the type of its parameter '{name}' cannot be set from text; use a number, text, true or "
                "false, or a tuple of these, or give it a default"
            )
        return name, hint, field()
    if hint is None:
        return None
    if not has_type(default, hint):
        hint = Union[hint, NoneType] if default is None else _field_type(inspect.Parameter.empty, default)  # noqa: UP007
    return None if hint is None else (name, hint, field(default=default))


def with_limits(item: tuple[str, Any, Any], limits: Iterable[Limit]) -> tuple[str, Any, Any]:
    """Return the (name, type, field) of `field_of` with limits as part of the type."""
    name, hint, made = item
    for limit in limits:
        hint = Annotated[hint, limit]
    return name, hint, made


def _field_type(annotation: Any, default: Any) -> Any:
    """Return the type of a field for a parameter's annotation, or for its default if it has none; None if unknown."""
    if annotation is inspect.Parameter.empty:
        if default is inspect.Parameter.empty or default is None:
            return int | float | bool | str | None
        if isinstance(default, tuple):
            return tuple[int | float | bool | str, ...]
        return type(default) if type(default) in _SCALARS else None
    if annotation in _SCALARS or annotation is NoneType or get_origin(annotation) is Literal:
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        members = [_field_type(member, inspect.Parameter.empty) for member in get_args(annotation)]
        return None if None in members else Union[tuple(members)]  # noqa: UP007
    if annotation in (tuple, list):
        return tuple[int | float | bool | str, ...]
    if get_origin(annotation) in (tuple, list):
        item = _field_type(get_args(annotation)[0], inspect.Parameter.empty)
        return None if item is None else tuple[item, ...]
    return None
