"""`repro` commands, in processes forked from one that has imported torch already.

Importing it takes seconds and the tests run hundreds of commands. What the shell and snakemake
start is tested in test_workflow.py and `.ci/run`.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["repro.cli", "repro.training.run", "repro.reports.html", "repro.reports.figures"]
)
TIMEOUT = 200  # seconds


def run(
    folder: Path, *arguments: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess:
    """Run `repro` with these arguments in a folder; `before` is called first, in its process.

    `before` must be picklable: a function of a module, or a functools.partial of one. Variables
    that libraries read when they are imported, such as OMP_NUM_THREADS, are those of the first
    call, as is the seed of Python's hashes, and functions of atexit are not called;
    test_workflow.py has processes of their own. The other variables are those of this call.
    """
    with tempfile.TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        out.touch()
        err.touch()
        process = CONTEXT.Process(
            target=_run, args=(folder, arguments, before, out, err, dict(os.environ))
        )
        process.start()
        try:
            process.join(TIMEOUT)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(["repro", *arguments], TIMEOUT)
        finally:  # otherwise Python waits for it when the tests are interrupted
            process.kill()
            process.join()
        texts = out.read_text(), err.read_text()
    return subprocess.CompletedProcess(["repro", *arguments], process.exitcode, *texts)


def _run(folder, arguments, before, out, err, environment):
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["repro", *map(str, arguments)]
    for seed in (random.seed, np.random.seed, torch.seed):
        seed()  # what is drawn without a seed differs between commands, as between processes
    if before is not None:
        before()
    from repro.cli import main

    main()


def kill_at_update(update: int, number: int) -> None:
    """Make a training send itself this signal at this update."""
    from repro.training.run import Training

    original = Training.update

    def patched(self, loss):
        if self.updates == update:
            os.kill(os.getpid(), number)
        original(self, loss)

    Training.update = patched


def kill_at_write(name: str) -> None:
    """Make the process kill itself between the bytes of this file and its name."""
    original = os.replace

    def patched(source, target):
        if os.path.basename(target) == name:
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = patched
