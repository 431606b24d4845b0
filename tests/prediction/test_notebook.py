"""docs/predict.ipynb: its code runs, in order, and its outputs are small."""

import json

import matplotlib
import pytest

from audio_from_video.prediction.pipeline import Pipeline
from tests.support.closure import ROOT

NOTEBOOK = ROOT / "docs/predict.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def test_its_code_runs_on_a_bundle_and_a_clip(whole_bundle, clip, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.setenv("BUNDLE", str(whole_bundle))
    monkeypatch.setenv("CLIP", str(clip))
    names: dict = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert isinstance(names["pipeline"], Pipeline)
    assert names["from_array"].status == "ok"
    [log_mel] = names["pipeline"].log_mels(names["sound"].features[:1])
    assert log_mel.shape == (98, 128)


def test_it_holds_the_outputs_of_a_run_and_they_are_small():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert NOTEBOOK.stat().st_size < 150_000
    for cell in code:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert "/tmp" not in json.dumps(output)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_have_no_metadata_of_a_machine(cell):
    assert not cell["metadata"]
