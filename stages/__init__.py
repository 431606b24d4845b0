"""The stages of the pipeline, each a script: `python -m stages.<stage>`.

A script that trains imports PyTorch for seconds, and so does the server from which its workers are forked.  The server
is started here, before the script's own imports, so that both import at the same time.
"""

import sys

TRAINING = ("classifier", "generator")

if sys.argv[0] == "-m":  # Python is about to run one of the modules
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if _module.removeprefix("stages.") in TRAINING and not {"-h", "--help"} & set(sys.argv):
        from stages.common import parallel

        parallel.start_server(_module, "torch._dynamo")  # an optimiser's first step imports it
