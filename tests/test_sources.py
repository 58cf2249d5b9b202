"""Fetching: mirror first, verified always, whole or absent."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from repro.data import download as sources
from repro.data.download import fetch, raw_files
from repro.errors import ConfigError, DataError

CONTENT = b"piano rolls " * 1000


def entry(**source):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return {"sources": [{"file": "sub/rolls.mat", "sha256": digest, **source}]}


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that serves tmp_path/web; its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    released = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            if self.path.startswith("/elsewhere"):
                self.send_response(302)
                self.send_header("Location", "/other.mat")
                self.end_headers()
            elif self.path.startswith("/hang"):
                released.wait()
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/rolls.mat", folder / "rolls.mat"
        released.set()
        running.shutdown()


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_download_verifies_and_keeps_the_file(server, tmp_path):
    url, served = server
    served.write_bytes(CONTENT)
    files = fetch("d", entry(url=[url]), tmp_path / "raw", None)
    assert files["sub/rolls.mat"].read_bytes() == CONTENT
    served.unlink()  # a second call needs no server
    assert fetch("d", entry(url=[url]), tmp_path / "raw", None) == files
    assert leftovers(tmp_path / "raw") == [files["sub/rolls.mat"]]


@pytest.mark.fault
def test_second_address_serves_when_the_first_fails(server, tmp_path):
    url, served = server
    served.write_bytes(CONTENT)
    broken = url.replace("rolls.mat", "gone.mat")
    files = fetch("d", entry(url=[broken, url]), tmp_path / "raw", None)
    assert files["sub/rolls.mat"].read_bytes() == CONTENT


@pytest.mark.fault
def test_truncated_download_is_refused_and_leaves_nothing(server, tmp_path):
    url, served = server
    served.write_bytes(CONTENT[:-7])
    with pytest.raises(DataError, match=r"d: cannot download sub/rolls.mat.*truncated or changed"):
        fetch("d", entry(url=[url]), tmp_path / "raw", None)
    assert not leftovers(tmp_path / "raw")


@pytest.mark.fault
def test_a_server_that_sends_other_bytes_redirects_or_hangs(server, tmp_path, monkeypatch):
    url, served = server
    served.write_bytes(CONTENT[::-1])
    (served.parent / "other.mat").write_bytes(b"<html>Moved. Please log in.</html>")
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    base = url.rpartition("/")[0]
    addresses = [url, f"{base}/elsewhere.mat", f"{base}/hang.mat"]
    with pytest.raises(DataError) as caught:
        fetch("d", entry(url=addresses), tmp_path / "raw", None)
    reasons = str(caught.value)
    assert reasons.count("truncated or changed") == 2 and "timed out" in reasons
    assert not leftovers(tmp_path / "raw")
    served.write_bytes(CONTENT)  # the server recovers, and so does the next call
    fetch("d", entry(url=addresses), tmp_path / "raw", None)


@pytest.mark.fault
def test_no_network_names_the_address_and_the_mirror(tmp_path):
    with pytest.raises(DataError, match=r"127.0.0.1:9/.*set a mirror folder"):
        fetch("d", entry(url=["http://127.0.0.1:9/rolls.mat"]), tmp_path / "raw", None)
    assert not leftovers(tmp_path / "raw")


def test_mirror_is_tried_before_any_address(tmp_path):
    mirror = tmp_path / "mirror"
    (mirror / "sub").mkdir(parents=True)
    (mirror / "sub" / "rolls.mat").write_bytes(CONTENT)
    files = fetch("d", entry(url=["http://127.0.0.1:9/x"]), tmp_path / "raw", mirror)
    assert files["sub/rolls.mat"].read_bytes() == CONTENT


@pytest.mark.fault
def test_damaged_file_in_the_mirror_is_named(tmp_path):
    mirror = tmp_path / "mirror"
    (mirror / "sub").mkdir(parents=True)
    (mirror / "sub" / "rolls.mat").write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match=r"mirror/sub/rolls.mat in the mirror is truncated"):
        fetch("d", entry(url=["http://127.0.0.1:9/x"]), tmp_path / "raw", mirror)
    assert not leftovers(tmp_path / "raw")


def test_mirror_that_does_not_exist_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="is not a directory"):
        fetch("d", entry(url=["http://127.0.0.1:9/x"]), tmp_path / "raw", tmp_path / "nowhere")


def test_package_that_cannot_be_obtained_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"d: cannot fetch nothing==1.0 with pip: ERROR"):
        fetch("d", entry(package="nothing==1.0"), tmp_path / "raw", None)
    assert not leftovers(tmp_path / "raw")


@pytest.mark.fault
def test_raw_file_damaged_after_the_fetch_is_noticed(tmp_path):
    path = tmp_path / "raw" / "sub" / "rolls.mat"
    with pytest.raises(DataError, match="repro fetch --dataset d"):
        raw_files("d", entry(), tmp_path / "raw")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(DataError, match="truncated or changed"):
        raw_files("d", entry(), tmp_path / "raw")


def archive(path, names):
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(CONTENT)
            packed.addfile(entry, io.BytesIO(CONTENT))


def test_an_archive_packed_again_is_recognised_by_its_content(server, tmp_path):
    url, served = server
    files = ["top/a.wav", "top/b.wav"]
    digest = hashlib.sha256()
    for name in ("a.wav", "b.wav"):
        digest.update(name.encode() + b"\0" + hashlib.sha256(CONTENT).digest())
    source = {"file": "d.tar.gz", "url": [url], "content": ".wav"}
    described = {"sources": [{**source, "content_sha256": digest.hexdigest()}]}
    archive(served, [*files, "top/README"])
    fetch("d", described, tmp_path / "one", None)
    archive(served, ["renamed/readme.txt", *(f"renamed/{name[4:]}" for name in reversed(files))])
    fetch("d", described, tmp_path / "two", None)
    archive(served, files[:1])
    with pytest.raises(DataError, match="its content differs"):
        fetch("d", described, tmp_path / "three", None)
    served.write_bytes(served.read_bytes()[:50])
    with pytest.raises(DataError, match="its content differs"):
        fetch("d", described, tmp_path / "three", None)
    assert not leftovers(tmp_path / "three")


LICENSED = {
    "sources": [],
    "licence": "on paper",
    "licensed": {"holder": "ACME", "register": "https://acme.invalid", "layout": "TRAIN/"},
}


@pytest.mark.parametrize("corpora", [None, "empty"])
def test_a_licensed_corpus_says_who_where_and_what(corpora, tmp_path):
    folder = tmp_path / corpora if corpora else None
    with pytest.raises(DataError) as error:
        fetch("timit", LICENSED, tmp_path / "raw", None, folder)
    setting = corpora or "corpora"
    for words in ("ACME", "https://acme.invalid", "TRAIN/", "timit", setting):
        assert words in str(error.value)


def test_a_licensed_corpus_is_read_where_it_is(tmp_path):
    for name in ("old", "new"):  # a second call follows the user's new folder
        (tmp_path / name / "timit").mkdir(parents=True)
        (tmp_path / name / "timit" / "file").write_text(name)
        fetch("timit", LICENSED, tmp_path / "runs" / "raw", None, tmp_path / name)
        (found,) = raw_files("timit", LICENSED, tmp_path / "runs" / "raw").values()
        assert (found / "file").read_text() == name
    with pytest.raises(DataError, match="repro fetch --dataset timit"):
        raw_files("timit", LICENSED, tmp_path / "elsewhere")
