"""One fixed set of numeric kernels: the same bytes on every x86-64 processor with AVX2.

PyTorch (ATen, oneDNN, MKL), NumPy and OpenBLAS choose their kernels by what the processor can do,
and kernels round differently.  `fix` caps them all at AVX2.  The libraries read these variables
while they are imported, so `fix` comes before them: in the `__init__.py` of stages, tools,
benchmarks and tests.  A variable that the environment sets already stays as it is.

Sources: PyTorch's ATEN_CPU_CAPABILITY, oneDNN's CPU dispatcher control, MKL's conditional numerical
reproducibility, NumPy's runtime dispatch (NPY_DISABLE_CPU_FEATURES), OpenBLAS's OPENBLAS_CORETYPE.
"""

import os
import platform
from pathlib import Path

CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    # the names of NumPy's own groups of kernels above AVX2
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def applies() -> bool:
    """Whether the caps hold here: on x86-64 with AVX2.

    Elsewhere there are other kernels, and ATen and OpenBLAS would run AVX2's all the same.
    """
    if platform.machine() != "x86_64":
        return False
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False


def chosen() -> dict[str, str | None]:
    """Return what the environment says of each variable: other kernels give other results."""
    return {variable: os.environ.get(variable) for variable in CAPS}


def fix() -> None:
    """Cap the numeric libraries that are imported from now on, in this process and its children."""
    if applies():
        for variable, cap in CAPS.items():
            os.environ.setdefault(variable, cap)
