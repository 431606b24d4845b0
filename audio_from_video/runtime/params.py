"""Reading and checking `params.yaml`: an unknown key, a wrong type or a value out of range is one clear sentence.

It is read as YAML 1.2, as DVC does: `off` is a word, not a truth value, also where `dvc exp run -S` took its quotes away.

Each stage declares the keys it reads as a frozen pydantic model beside its algorithm; `load` fills it from the section
of the same name.  A stage that needs single keys of another section declares a model of just those keys and passes
`only=True`; DVC then tracks these keys alone.
"""

import difflib
import os
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from audio_from_video.runtime.errors import UserError

PARAMS_FILE = Path(os.environ.get("PARAMS_FILE", "params.yaml"))


class Section(BaseModel):
    """Base of every stage's parameters: immutable, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def load(section: str, model: type[S], only: bool = False) -> S:
    """Return `params.yaml`'s `section` as a checked `model`.

    `only`: read just the keys that `model` declares and leave the section's others to their own stage.
    Raises UserError with the key, what is wrong with it and what is allowed.
    """
    if not PARAMS_FILE.is_file():
        raise UserError(
            f"{PARAMS_FILE} was not found in {Path.cwd()}: run stages from the repository root"
        )
    try:
        document = YAML(typ="safe").load(PARAMS_FILE)
    except YAMLError as error:
        raise UserError(f"{PARAMS_FILE} is not valid YAML: {error}") from None
    values = document.get(section) if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise UserError(f"{PARAMS_FILE} has no section '{section}'; restore it from git")
    if only:
        values = {key: value for key, value in values.items() if key in model.model_fields}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentences(section, model, error))) from None


def _sentences(section: str, model: type[Section], error: ValidationError) -> list[str]:
    """A sentence for each wrong key: what is wrong with it and what is allowed."""
    sentences: dict[
        str, str
    ] = {}  # by key: a value that may have several types gives an error for each
    for detail in error.errors():
        keys, owner = _place(model, detail["loc"])
        key = ".".join((section, *keys))
        message = detail["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]}"
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], owner.model_fields, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            sentences[key] = (
                f"{PARAMS_FILE}: {key} is not a parameter; {hint}allowed are {', '.join(sorted(owner.model_fields))}"
            )
        elif detail["type"] == "missing":
            sentences[key] = f"{PARAMS_FILE}: {key} is missing"
        elif key in sentences:
            sentences[key] += f", or {message}"
        else:
            sentences[key] = f"{PARAMS_FILE}: {key} = {detail['input']!r}: {message}"
    return list(sentences.values())


def _place(model: type[Section], loc: tuple) -> tuple[list[str], type[Section]]:
    """The keys of an error's location, without pydantic's names for the types of a union, and the section they end in."""
    keys: list[str] = []
    owner: type[Section] = model
    kind: Any = model
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, Section):
            owner = kind
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        elif not isinstance(part, int):  # the name of a type
            continue
        keys.append(str(part))
    return keys, owner
