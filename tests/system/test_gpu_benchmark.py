"""benchmarks.gpu at a tiny size on the CPU: every part runs, and the table says what was measured.

How fast anything is depends on the machine, so that no figure is checked.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.generation.networks import AudioGenerator, GeneratorSizes
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.runtime import params
from audio_from_video.storage.row_file import RowFile
from benchmarks import gpu
from benchmarks.gpu_parts import training
from benchmarks.gpu_parts.batched_lstm import BatchedGenerators
from tests.support.closure import ROOT

WHOLE_STAGES = {
    "vision": "the stage video_features",
    "audio": "the stage audio_features",
    "captions": "captions of the stage captions",
    "training": "generator, the training loop, one seed",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part_runs_at_a_tiny_size(tmp_path, part):
    command = [sys.executable, "-m", "benchmarks.gpu", "--size", "tiny", "--device", "cpu"]
    command += ["--parts", part, "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads((tmp_path / gpu.JSON_NAME).read_text())
    assert report["troubles"] == {}
    measured = {row["what"]: row for row in report["measurements"]}
    assert [what for what, row in measured.items() if "failed" in row] == []
    assert all(row["rate"] > 0 for row in measured.values())
    if part in WHOLE_STAGES:
        assert any(what.startswith(WHOLE_STAGES[part]) for what in measured)


def measurement(part: str, what: str, items: float, flops: float) -> dict:
    return {
        "part": part,
        "what": what,
        "unit": "images",
        "items": items,
        "seconds": 2.0,
        "flops": flops,
        "peak_memory_gib": 1.25,
    }


def test_shares_are_of_the_largest_rate_of_products_and_failures_are_named():
    rows = [
        measurement("device", "product", items=10, flops=4e12),  # 20 TFLOP/s
        measurement("vision", "computing", items=1000, flops=1e10),  # 5 TFLOP/s
        measurement("vision", "reading", items=1000, flops=0),
        {"part": "vision", "what": "the stage", "failed": "out of memory"},
    ]
    shared = gpu.with_shares(rows)
    assert [row.get("share_of_peak") for row in shared] == [1.0, 0.25, None, None]
    assert shared[1]["rate"] == 500
    report = {
        "date": "2026-01-02",
        "device": "a GPU",
        "cores": 16,
        "versions": {"torch": "2.0"},
        "measurements": shared,
        "troubles": {"audio": "stopped after 75 s"},
    }
    text = gpu.table(report)
    assert "2026-01-02" in text and "a GPU, 16 cores, torch 2.0" in text
    assert "| vision | computing | 500.0 images/s | 2 | 25.0 % | 1.2 GiB |" in text
    assert "| vision | the stage | failed: out of memory | | | |" in text
    assert "The part audio stopped after 75 s." in text


@pytest.mark.parametrize("kind", ["generator", "classifier"])
def test_the_training_loop_passes_once_over_its_clips(workspace, kind):
    """The rate counts one pass, so that `min_steps` must ask for no more of them."""
    workspace.set(**{kind: {"lstm": {"hidden": 4, "projection": 4}}})
    video = RowFile(workspace.folder / "video", (18, 6)).write(np.zeros((5, 18, 6)))
    audio = RowFile(workspace.folder / "audio", (18, 3)).write(np.zeros((5, 18, 3)))
    networks = (
        params.load("generator", GeneratorParams),
        params.load("classifier", ClassifierParams),
    )
    assert training.train((training.Work(kind, "cpu", video, audio, *networks), 0)) == 5


@pytest.mark.parametrize("bidirectional", [False, True])
def test_generators_as_one_network_are_the_generators(bidirectional):
    sizes = GeneratorSizes(7, 3, 5, 4, 0.0, bidirectional)
    torch.manual_seed(0)
    generators = [AudioGenerator(sizes) for _ in range(3)]
    for number, generator in enumerate(generators):
        generator.set_scale("video", torch.randn(7), torch.rand(7) + 0.5 + number)
    video = torch.randn(3, 2, 6, 7)
    batched = BatchedGenerators(generators)
    found = batched(video)
    expected = torch.stack([g(own) for g, own in zip(generators, video, strict=True)])
    assert torch.allclose(found, expected, atol=1e-6)

    found.square().sum().backward()
    expected.square().sum().backward()
    for name, gradient in batched.weights.items():
        own = [dict(g.named_parameters())[name.replace("/", ".")].grad for g in generators]
        assert torch.allclose(gradient.grad, torch.stack(own), atol=1e-5)
