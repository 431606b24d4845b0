"""Reading and checking `params.yaml`: an unknown key, a wrong type or a value out of range is one clear sentence.

Each stage declares the keys it reads as a frozen pydantic model beside its algorithm; `load` fills it from the section
of the same name.  A stage that needs single keys of another section declares a model of just those keys and passes
`only=True`; DVC then tracks these keys alone.
"""
import difflib
import os
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.common.errors import UserError

PARAMS_FILE = Path(os.environ.get("PARAMS_FILE", "params.yaml"))


class Section(BaseModel):
    """Base of every stage's parameters: immutable, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


S = TypeVar("S", bound=Section)


def load(section: str, model: type[S], only: bool = False) -> S:
    """Return `params.yaml`'s `section` as a checked `model`.

    `only`: read just the keys that `model` declares and leave the section's others to their own stage.
    Raises UserError with the key, what is wrong with it and what is allowed.
    """
    if not PARAMS_FILE.is_file():
        raise UserError(f"{PARAMS_FILE} was not found in {Path.cwd()}: run stages from the repository root")
    try:
        document = yaml.safe_load(PARAMS_FILE.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{PARAMS_FILE} is not valid YAML: {error}") from None
    values = (document or {}).get(section)
    if not isinstance(values, dict):
        raise UserError(f"{PARAMS_FILE} has no section '{section}'; restore it from git")
    if only:
        values = {key: value for key, value in values.items() if key in model.model_fields}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentence(section, model, detail) for detail in error.errors())) from None


def _sentence(section: str, model: type[Section], detail) -> str:
    """One pydantic error as a sentence that names key, fault and what is allowed."""
    key = ".".join(str(part) for part in (section, *detail["loc"]))
    if detail["type"] == "extra_forbidden":
        allowed = sorted(model.model_fields)
        near = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{PARAMS_FILE}: {key} is not a parameter; {hint}allowed are {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{PARAMS_FILE}: {key} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{PARAMS_FILE}: {key} = {detail['input']!r}: {message[0].lower()}{message[1:]}"
