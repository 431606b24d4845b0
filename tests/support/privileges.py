"""Processes to which permissions apply, even where the tests run as root."""

import ctypes
import os

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


def drop_overrides() -> None:
    """Make modes apply to what this process executes (for subprocess's preexec_fn)."""
    if os.geteuid() != 0:
        return
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)
