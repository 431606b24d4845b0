"""The caps reach the libraries, and nothing that the environment says is overruled."""

import json
import os
import subprocess
import sys

import pytest

from audio_from_video.runtime import kernels
from tests.support.closure import ROOT

SAY = """
import json, os
import stages
import numpy, torch
from threadpoolctl import threadpool_info
pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
blas = [pool["architecture"] for pool in pools]
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "openblas": blas,
    "caps": {name: os.environ.get(name) for name in %r},
}))
"""
x86 = pytest.mark.skipif(not kernels.applies(), reason="other processors have other kernels")


def say(**environment: str) -> dict:
    """What libraries report in a process that imports `stages` first."""
    inherited = {name: value for name, value in os.environ.items() if name not in kernels.CAPS}
    command = [sys.executable, "-c", SAY % list(kernels.CAPS)]
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@x86
@pytest.mark.slow
def test_libraries_use_no_more_than_avx2():
    told = say()
    assert told["caps"] == kernels.CAPS
    assert told["torch"] == "AVX2"
    assert set(told["openblas"]) == {"Haswell"}


@x86
@pytest.mark.slow
def test_the_environment_has_the_last_word():
    told = say(ATEN_CPU_CAPABILITY="default")
    assert told["caps"]["ATEN_CPU_CAPABILITY"] == "default"
    assert told["torch"] == "DEFAULT"


@x86
def test_numpy_rounds_alike_with_and_without_avx512():
    """float64 logarithms: NumPy's kernels for AVX-512 round some of them differently."""
    code = (
        "import stages, hashlib, numpy as np; "
        "x = np.random.default_rng(0).random(20000); "
        "print(hashlib.blake2b(np.log2(x).tobytes(), digest_size=4).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    reference = subprocess.run(
        [sys.executable, "-c", code.replace("import stages, ", "import ")],
        cwd=ROOT,
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == reference.stdout
