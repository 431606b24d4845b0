"""Reading and checking `params.yaml`: a mistake in it is one clear sentence.

It is read as YAML 1.2, as DVC does: `off` is a word, not a truth value, also where
`dvc exp run -S` took its quotes away.

The keys of a section, with their ranges, are a frozen pydantic model in `settings.py` of the
section's room, which `load` fills.  `read` returns single values of other sections; DVC then tracks
these keys alone (tests/system/test_dvc_yaml.py compares them with dvc.yaml).  `check` is for the
first stage of a run, which looks at all sections.
"""

import difflib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

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


def check(models: dict[str, type[Section]]) -> None:
    """Check the whole file, each section by its model in `models`.

    Raises UserError with a line for every mistake: key, what is wrong with it, what is allowed.
    """
    document = _document()
    mistakes = []
    for name in document:
        if name not in models:
            hint = _did_you_mean(str(name), models)
            allowed = ", ".join(models)
            mistakes.append(f"{file()}: '{name}' is not a section; {hint}there are {allowed}")
    for section, model in models.items():
        try:
            _checked(section, _section(document, section), model)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def file() -> Path:
    """The file of parameters: the environment's PARAMS_FILE, else params.yaml."""
    return Path(os.environ.get("PARAMS_FILE") or "params.yaml")


def _values(section: str) -> dict:
    """A section as it stands in the file."""
    return _section(_document(), section)


def _document() -> dict:
    """The whole file; {} where it holds something else than sections."""
    path = file()
    if not path.is_file():
        raise UserError(
            f"{path} was not found in {Path.cwd()}: run stages from the repository root"
        )
    try:
        document = _parsed(path.read_bytes())
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    return document if isinstance(document, dict) else {}


@lru_cache(maxsize=1)
def _parsed(text: bytes) -> Any:
    """What a YAML text holds; a stage asks for several values of the same text."""
    return YAML(typ="safe").load(text)


def _section(document: dict, section: str) -> dict:
    values = document.get(section)
    if not isinstance(values, dict):
        raise UserError(f"{file()} has no section '{section}'; restore it from git")
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
            hint = _did_you_mean(keys[-1], owner.model_fields)
            allowed = ", ".join(sorted(owner.model_fields)) or "none"
            sentences[key] = f"{file()}: {key} is not a parameter; {hint}allowed are {allowed}"
        elif detail["type"] == "model_type":
            sentences[key] = f"{file()}: {key} = {detail['input']!r}: it must hold keys of its own"
        elif detail["type"] == "missing":
            sentences[key] = f"{file()}: {key} is missing"
        elif key in sentences:
            sentences[key] += f", or {message}"
        else:
            sentences[key] = f"{file()}: {key} = {detail['input']!r}: {message}"
    return list(sentences.values())


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the known word closest to a misspelt one; "" where none is close."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def _place(model: type[Section], location: tuple) -> tuple[list[str], type[Section]]:
    """The keys of an error's location, and the section that they end in.

    pydantic puts the names of a union's types among the keys: they are left out.
    """
    keys: list[str] = []
    owner: type[Section] = model
    kind: Any = model
    for part in location:
        kind = _plain(kind)
        if isinstance(kind, type) and issubclass(kind, Section):
            owner = kind
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        elif not isinstance(part, int):
            kind = _member(kind, part)
            continue
        keys.append(str(part))
    return keys, owner


def _plain(kind: Any) -> Any:
    """A type without its annotations."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _member(union: Any, name: str) -> Any:
    """The member of a union of sections that is called so; None where there is none."""
    members = [_plain(member) for member in get_args(union)]
    named = [member for member in members if getattr(member, "__name__", "") == name]
    return named[0] if named else None
