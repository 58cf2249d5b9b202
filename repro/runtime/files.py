"""Files that are either whole or absent."""

import errno
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from repro.errors import ReproError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is renamed over `path`.

    A crash, a kill, a power cut or a full disk leaves the old file (or none), never half of a new
    one. What a killed process left behind is removed by the next process that writes `path`.

    Raises:
        ReproError: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield partial
        with partial.open("r+b") as file:  # Windows cannot flush a file opened for reading alone
            os.fsync(file.fileno())  # bytes before the name, or a power cut leaves an empty file
        partial.chmod(0o666 & ~_umask())  # some libraries write files that only their owner reads
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # a folder that cannot be read has nothing to remove either
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)  # can only be read by setting it
    os.umask(mask)
    return mask


def cannot_write(path: Path, error: OSError) -> ReproError:
    """Return the error that says why `path` cannot be written, and what to do about it."""
    remedy = "Free some space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Work in your own clone."
    elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        remedy = "A part of this path is not a directory: choose another (--runs, REPRO_RUNS)."
    return ReproError(f"cannot write {path}: {error.strerror or error}. {remedy}")


def require_writable(folders: Iterable[Path]) -> None:
    """Refuse folders that exist but cannot be written, such as those in another user's clone.

    Raises:
        ReproError: names the first.
    """
    for folder in folders:
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise cannot_write(folder, PermissionError(errno.EACCES, "Permission denied"))


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        writer = leftover.name.split(".")[-2]
        if writer.isdecimal() and not _is_running(int(writer)):
            leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # where os.kill(process, 0) sends Ctrl-C
        import psutil

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with Unix line ends."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def sha256_of(record: dict) -> str:
    """Return the SHA-256 of a record as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ReproError: the file may not be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise ReproError(f"{path} cannot be read ({error.strerror}).") from None


def is_hidden(path: PurePath | str) -> bool:
    """Return whether a path belongs to a hidden file, or to what macOS leaves next to files."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePath(path).parts)


def visible_files(folder: Path) -> list[Path]:
    """Return the files anywhere below a folder, sorted, without hidden ones.

    Raises:
        ReproError: a folder below it may not be read.
    """

    def refuse(error: OSError) -> None:
        raise ReproError(f"{error.filename} cannot be read ({error.strerror}).") from None

    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if not is_hidden(Path(parent, name).relative_to(folder))
    ]
    return sorted(path for path in found if path.is_file())


def readable(path: Path) -> bool:
    """Return whether the file exists and can be read.

    Raises:
        ReproError: it, or a folder above it, exists but may not be read.
    """
    try:
        with path.open("rb"):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ReproError(
            f"{path} cannot be read ({error.strerror}): ask its owner, or change its permissions."
        ) from None
