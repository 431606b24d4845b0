"""Reading and checking `params.yaml`: a mistake in it is one clear sentence.

It is read as YAML 1.2, as DVC does: `off` is a word, not a truth value, also where
`dvc exp run -S` took its quotes away.

Each stage declares the keys of its own section as a frozen pydantic model beside its algorithm,
which `load` fills.  `read` returns single values of other sections; DVC then tracks these keys
alone (tests/system/test_dvc_yaml.py compares them with dvc.yaml).
"""

import difflib
import os
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from audio_from_video.runtime.errors import UserError


class Section(BaseModel):
    """Base of every stage's parameters: immutable, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)
T = TypeVar("T")


def load(section: str, model: type[S]) -> S:
    """Return a section of the parameters as a checked `model`.

    Raises UserError with the key, what is wrong with it and what is allowed.
    """
    return _checked(section, _values(section), model)


def read(section: str, key: str, kind: type[T]) -> T:
    """Return one value of another stage's section, checked to be of `kind` (int, list[str], ...).

    Raises UserError with the key and what is wrong with it.
    """
    fields: dict[str, Any] = {key: (kind, ...)}
    model = create_model(section, __base__=Section, **fields)
    values = {name: value for name, value in _values(section).items() if name == key}
    return getattr(_checked(section, values, model), key)


def file() -> Path:
    """The file of parameters: the environment's PARAMS_FILE, else params.yaml."""
    return Path(os.environ.get("PARAMS_FILE") or "params.yaml")


def _values(section: str) -> dict:
    """A section as it stands in the file."""
    path = file()
    if not path.is_file():
        raise UserError(
            f"{path} was not found in {Path.cwd()}: run stages from the repository root"
        )
    try:
        document = YAML(typ="safe").load(path)
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    values = document.get(section) if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise UserError(f"{path} has no section '{section}'; restore it from git")
    return values


def _checked(section: str, values: dict, model: type[S]) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentences(section, model, error))) from None


def _sentences(section: str, model: type[Section], error: ValidationError) -> list[str]:
    """A sentence for each wrong key: what is wrong with it and what is allowed."""
    # By key: a value that may have several types gives an error for each of them.
    sentences: dict[str, str] = {}
    for detail in error.errors():
        keys, owner = _place(model, detail["loc"])
        key = ".".join((section, *keys))
        message = detail["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}"

        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], owner.model_fields, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            allowed = ", ".join(sorted(owner.model_fields))
            sentences[key] = f"{file()}: {key} is not a parameter; {hint}allowed are {allowed}"
        elif detail["type"] == "missing":
            sentences[key] = f"{file()}: {key} is missing"
        elif key in sentences:
            sentences[key] += f", or {message}"
        else:
            sentences[key] = f"{file()}: {key} = {detail['input']!r}: {message}"
    return list(sentences.values())


def _place(model: type[Section], location: tuple) -> tuple[list[str], type[Section]]:
    """The keys of an error's location, and the section that they end in.

    pydantic puts the names of a union's types among the keys: they are left out.
    """
    keys: list[str] = []
    owner: type[Section] = model
    kind: Any = model
    for part in location:
        if isinstance(kind, type) and issubclass(kind, Section):
            owner = kind
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        elif not isinstance(part, int):
            continue
        keys.append(str(part))
    return keys, owner
