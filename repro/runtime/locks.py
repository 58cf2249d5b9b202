"""Telling a snakemake that was killed from one that still runs."""

from pathlib import Path

from filelock import FileLock, Timeout

from repro.runtime.files import cannot_write


def clear_stale_locks(folder: Path) -> FileLock | None:
    """Remove the lock files of a snakemake that was killed; return a lock to hold until the end.

    Snakemake marks what it writes by files under `folder`/locks, which a kill leaves behind. A lock
    held in the kernel ends with its process: whoever acquires it knows that no other snakemake is
    running. Returns None if one is; Snakemake's own lock files then tell the user so.

    Raises:
        ReproError: the folder cannot be written.
    """
    lock = FileLock(folder / "running.lock")
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise cannot_write(folder, error) from None
    for stale in (folder / "locks").glob("*.lock"):
        stale.unlink(missing_ok=True)
    return lock
