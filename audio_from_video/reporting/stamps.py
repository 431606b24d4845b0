"""Stamps of experiments: of which data, code and parameters their figures are.

metrics/experiments/<name>.json holds one for each setting, or one under the experiment's own name
where there are no settings.  Figures are of this run where data, code and parameters are the
present ones.  All others are of another run: the report shows them behind a banner.

data        the data set's digest (storage/shards.py)
code        digest of the code of those stages that the figures depend on (data/code/<stage>.json),
            and of the embedded models that these stages read
parameters  digest of params.yaml, but for the sections that change no figure of an experiment and
            for what the experiment itself changes
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from audio_from_video.reporting import provenance
from audio_from_video.runtime import params
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

UNKNOWN = "unknown"  # a digest that was not noted
OTHER_SECTIONS = ("experiments", "search", "report")  # they change no figure of an experiment
OTHER_RUN = "Of another run"  # how a banner begins


class Stamp(params.Section):
    """What figures were computed from.

    date: UTC.  commit: None without Git.  uncommitted: files that differed from it.
    machine: what computed them.  changes: parameters that differed from the commit's, and those
    that the experiment changed.  data, code, parameters: digests, or UNKNOWN; None where it plays
    no part.  code_files: those whose contents `code` is the digest of.
    """

    date: str
    commit: str | None
    uncommitted: list[str]
    machine: str
    changes: list[str]
    data: str | None
    parameters: str | None
    code: str | None
    code_files: list[str]

    def differences(self) -> list[str]:
        """Return what is not as in this run, such as `other data`; [] where all is the same."""
        present = {
            "data": (self.data, shards.current_clip_set()),
            "code": (self.code, digest(contents(self.code_files))),
            "parameters": (self.parameters, parameters_digest()),
        }
        differences = []
        for part, (stamped, now) in present.items():
            if stamped is None:
                continue
            if stamped == UNKNOWN or now is None:
                differences.append(f"unknown {part}")
            elif stamped != now:
                differences.append(f"other {part}")
        return differences


STAMPS = TypeAdapter(dict[str, Stamp])


# ---- digests ----


def parameters_digest() -> str:
    """Return the digest of the present parameters."""
    return _digest_of_parameters(params.file().read_text())


@lru_cache(maxsize=1)
def _digest_of_parameters(text: str) -> str:
    """The digest of a file of parameters; a report asks for each of its experiments' settings."""
    document = YAML(typ="safe").load(text)
    for section in OTHER_SECTIONS:
        document.pop(section, None)
    return digest(document)


def contents(paths: list[str]) -> dict[str, str | None]:
    """Return the MD5 of each file, as dvc.lock has it; None where there is no such file."""
    hashes: dict[str, str | None] = {}
    for path in sorted(paths):
        hashes[path] = None
        if Path(path).is_file():
            hashes[path] = hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
    return hashes


def code_in_lock(lock: dict, targets: list[str]) -> dict[str, str | None]:
    """Return the files of code that stages depend on, directly or through others, with their MD5.

    The files of embedded models are among them, as they lie in the working tree.
    lock: the content of dvc.lock.  targets: names of its stages.
    """
    stages = lock["stages"]
    code: dict[str, str | None] = {}
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for dependency in stages[name].get("deps", []):
            path = dependency["path"]
            if Path(path).is_relative_to(layout.TINY_MODELS):
                # Weights in git: the code that once trained them does not matter.
                models = [str(file) for file in Path(path).rglob("*") if file.is_file()]
                code |= contents(models)
                continue
            if Path(path).parent == layout.CODE:
                code[path] = dependency["md5"]
            waiting += writers(stages, path)
    return dict(sorted(code.items()))


def writers(stages: dict, path: str) -> list[str]:
    """Return the stages that write a path, something below it or a folder that holds it."""
    names = []
    for name, stage in stages.items():
        for output in stage.get("outs", []):
            inside = f"{path}/".startswith(f"{output['path']}/")
            holds = output["path"].startswith(f"{path}/")
            if inside or holds:
                names.append(name)
    return names


# ---- stamps ----


def name_of_run(setting: str, sample: str) -> str:
    """Return the name that a run's stamp has; sample: its seed, '' where there is one sample."""
    return f"{setting}, sample {sample}" if sample else setting


def begin(machine: str, changes: list[str]) -> Stamp:
    """Return the stamp of an experiment that begins now; `finish` adds data and code.

    machine: what computes it.  changes: parameters that it changes, as text.
    """
    state = provenance.code_state()
    return Stamp(
        date=provenance.now(),
        commit=state.commit,
        uncommitted=state.uncommitted,
        machine=machine,
        changes=[*state.parameters, *changes],
        data=UNKNOWN,
        parameters=parameters_digest(),
        code=UNKNOWN,
        code_files=[],
    )


def finish(stamp: Stamp, data: str | None, code: dict[str, str | None]) -> Stamp:
    """Return a stamp with the digest of the data set and of the files of code."""
    return stamp.model_copy(update={"data": data, "code": digest(code), "code_files": list(code)})


def finish_in_workspace(stamp: Stamp, targets: list[str]) -> Stamp:
    """Return the stamp of figures that were computed from the outputs in the working tree.

    targets: stages that the figures depend on; the code is unknown where dvc.lock lacks one.
    """
    data = shards.current_clip_set() or UNKNOWN
    lock = provenance.read_lock()
    if lock is None or not set(targets) <= set(lock["stages"]):
        return stamp.model_copy(update={"data": data})
    return finish(stamp, data, code_in_lock(lock, targets))


def stamp_file(name: str) -> Path:
    """Return the file with the stamps of an experiment."""
    return layout.EXPERIMENTS / f"{name}.json"


def read(name: str) -> dict[str, Stamp]:
    """Return the stamps of an experiment by setting; {} where it has none.

    Raises UserError where the file does not hold stamps.
    """
    path = stamp_file(name)
    if not path.is_file():
        return {}
    try:
        return STAMPS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path} holds no stamps ({error.errors()[0]['msg']}): restore it from git, or delete "
            "it and run the experiment again"
        ) from None


def write(name: str, stamps: dict[str, Stamp]) -> None:
    """Write the stamps of an experiment by setting."""
    write_json(stamp_file(name), {setting: stamp.model_dump() for setting, stamp in stamps.items()})


def banner(name: str, settings: list[str]) -> str:
    """Return the sentence that stands above figures of another run; '' for those of this run.

    settings: those whose figures are shown, by `name_of_run`; the experiment's own name where it
    has none.
    """
    stamps = read(name)
    differences: list[str] = []
    origins: list[str] = []
    for setting in settings:
        if setting not in stamps:
            differences.append("unknown data, code and parameters")
            continue
        stamp = stamps[setting]
        found = stamp.differences()
        differences += found
        if found:
            origins.append(f"commit {stamp.commit or UNKNOWN}, {stamp.date[:10]}")
    if not differences:
        return ""
    origin = "; ".join(dict.fromkeys(origins)) or UNKNOWN
    what = ", ".join(dict.fromkeys(differences))
    return f"{OTHER_RUN} ({origin}): {what}. These are no figures of this run."
