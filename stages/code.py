"""Check params.yaml and note what code each stage runs.

Every other stage depends on this one, so a mistake in any section ends a run before its first work.

Reads    params.yaml, stages/, audio_from_video/
Writes   data/code/<stage>.json: the digest of every file that the stage's script imports, directly
         or through others, of the packages' `__init__.py` on the way to them, and of the data
         files that lie in the same folders as those modules' code
DVC runs a stage again when the code that is noted for it changes, and only then: DVC does not
follow imports.  A stage could list its files among its `deps`, but dvc.lock would then hold
hundreds of entries, which DVC reads and writes with every stage that it runs; here it holds one for
each stage.  The digests do not depend on params.yaml, so that a change of it alone runs nothing
else.
"""

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from audio_from_video.backbones.settings import AudioFeaturesParams, VideoFeaturesParams
from audio_from_video.captioning.settings import CaptionsParams
from audio_from_video.classification.missingness_settings import MissingnessParams
from audio_from_video.classification.search_settings import SearchParams
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.clipset.settings import ClipsParams
from audio_from_video.evaluation.settings import Experiments, SummaryParams
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.meaning.settings import (
    DictionaryParams,
    FilterParams,
    LabelAudioParams,
    LabelPredictorParams,
    MappingParams,
)
from audio_from_video.media.settings import (
    AudioParams,
    FramesParams,
    OpticalFlowParams,
    RepresentativeFramesParams,
)
from audio_from_video.prediction.settings import BundleParams
from audio_from_video.reporting.settings import ReportParams
from audio_from_video.runtime import params
from audio_from_video.runtime.atomic import write_text
from audio_from_video.runtime.digests import file_digest
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout
from audio_from_video.world.settings import PretrainParams, SampleParams

STAGES = Path("stages")
PACKAGES = ("stages", "audio_from_video")
OUTPUT = layout.CODE
SECTIONS: dict[str, type[params.Section]] = {  # of params.yaml, in its order
    "sample": SampleParams,
    "pretrain": PretrainParams,
    "clips": ClipsParams,
    "frames": FramesParams,
    "optical_flow": OpticalFlowParams,
    "representative_frames": RepresentativeFramesParams,
    "audio": AudioParams,
    "video_features": VideoFeaturesParams,
    "audio_features": AudioFeaturesParams,
    "dictionary": DictionaryParams,
    "generator": GeneratorParams,
    "label_predictor": LabelPredictorParams,
    "filter": FilterParams,
    "label_audio": LabelAudioParams,
    "captions": CaptionsParams,
    "mapping": MappingParams,
    "classifier": ClassifierParams,
    "missingness": MissingnessParams,
    "bundle": BundleParams,
    "report": ReportParams,
    "summary": SummaryParams,
    "search": SearchParams,
    "experiments": Experiments,
}
UNDO = "`git checkout HEAD params.yaml` undoes a `dvc exp run -S` that brought this about"


class ImportGraph:
    """Which files below `root` follow from which.  Paths are relative to `root`."""

    def __init__(self, root: Path):
        self.root = root
        self._next: dict[Path, set[Path]] = {}  # stages share most of their files

    def imported_files(self, script: Path) -> set[Path]:
        """Return the files that a script runs, found without running it.

        Imports are followed within PACKAGES, also those inside functions.  A module comes with the
        `__init__.py` of the packages that hold it, and with each data file of its own folder whose
        name stands in its text.
        """
        files: set[Path] = set()
        waiting = {script}
        while waiting:
            path = waiting.pop()
            files.add(path)
            waiting |= self._files_after(path) - files
        return files

    def _files_after(self, path: Path) -> set[Path]:
        """Return the data files and modules that a file names."""
        if path.suffix != ".py":
            return set()
        if path not in self._next:
            text = (self.root / path).read_text()
            found = _data_files(path, text, self.root)
            for name in set(_imported_names(ast.parse(text))):
                found |= set(_module_files(name, self.root))
            self._next[path] = found
        return self._next[path]


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names that may be modules: `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def _module_files(name: str, root: Path) -> list[Path]:
    """The file of a module and the `__init__.py` of each package above it; none for strangers'."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    packages = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates = [*packages, Path(*parts).with_suffix(".py")]
    return [path for path in candidates if (root / path).is_file()]


def _data_files(path: Path, text: str, root: Path) -> set[Path]:
    """Files beside a module that are no code and that it names."""
    neighbours = (root / path).parent.iterdir()
    return {
        file.relative_to(root)
        for file in neighbours
        if file.is_file() and file.suffix not in (".py", ".pyc") and f'"{file.name}"' in text
    }


def main() -> None:
    """Check the parameters, then write the digests of every stage's files."""
    try:
        params.check(SECTIONS)
    except UserError as error:
        mistakes = [printable(line) for line in str(error).splitlines()]
        sys.exit("\n".join(f"code: error: {mistake}" for mistake in mistakes) + f"\ncode: {UNDO}")
    graph = ImportGraph(Path())
    digest_of = cache(file_digest)
    for script in sorted(STAGES.glob("*.py")):
        if script.stem in ("__init__", "code"):
            continue
        files = graph.imported_files(script) | {STAGES / "__init__.py"}
        digests = {str(path): digest_of(path) for path in sorted(files)}
        write_text(OUTPUT / f"{script.stem}.json", json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
