"""Downloads against a server on this machine: whole files arrive, everything else leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from poise.core.errors import DataError
from poise.data import CIFAR10, MNIST
from poise.data.downloads import Remote, fetch, obtain, unpack


class Server:
    """Serves `content` by file name; the names in `cut` end half-way through."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                server.asked.append(name)
                content = server.content.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in server.cut else content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False  # closing waits for every answer
        self.url = f"http://127.0.0.1:{self.http.server_port}/files"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def offer(self, name: str, content: bytes, wrong: bool = False) -> Remote:
        """Serve the file; the digest is another file's where `wrong`."""
        self.content[name] = content
        return Remote(f"https://official.invalid/{name}", hashlib.md5(content + b"x" * wrong).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    monkeypatch.setenv("POISE_MIRROR", made.url + "/")
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield made
    made.close()


def tar_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_whole_file_arrives(server: Server, tmp_path: Path) -> None:
    remote = server.offer("numbers.bin", b"0123456789" * 1000)
    assert fetch(remote, tmp_path / "a" / "b").read_bytes() == b"0123456789" * 1000
    assert everything(tmp_path) == ["a", "a/b", "a/b/numbers.bin"]


FAILURES = {
    "wrong digest": "MD5 digest",
    "truncated": "ChunkedEncodingError",
    "absent": "HTTP status 404",
    "no server": "ConnectionError",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_broken_download_leaves_nothing_and_says_what_to_do(server: Server, tmp_path: Path, failure: str) -> None:
    remote = server.offer("numbers.bin", b"0123456789" * 1000, wrong=failure == "wrong digest")
    if failure == "truncated":
        server.cut.add("numbers.bin")
    elif failure == "absent":
        server.content.clear()
    elif failure == "no server":
        server.close()
    with pytest.raises(DataError) as refused:
        fetch(remote, tmp_path / "new" / "folder")
    assert server.url + "/numbers.bin" in str(refused.value)
    assert str(tmp_path / "new" / "folder" / "numbers.bin") in str(refused.value)
    assert FAILURES[failure] in str(refused.value)
    assert everything(tmp_path) == []


def test_a_broken_download_leaves_other_files_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError):
        fetch(server.offer("numbers.bin", b"1", wrong=True), tmp_path)
    assert everything(tmp_path) == ["mine.txt"]


def test_mnist_is_fetched_when_missing_and_only_then(
    server: Server, tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.mnist(tmp_path / "original")
    files = {path.name: path.read_bytes() for path in (tmp_path / "original" / "MNIST" / "raw").iterdir()}
    remotes = tuple(server.offer(name, content) for name, content in files.items())
    monkeypatch.setattr(MNIST, "remotes", remotes)
    monkeypatch.setattr(MNIST, "digests", {remote.name: remote.md5 for remote in remotes})
    home = tmp_path / "home"
    for _ in range(2):
        assert len(MNIST().load(home).train) == 20
    assert sorted(server.asked) == sorted(files)
    (home / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(MNIST().load(home).test) == 10
    assert server.asked[4:] == ["t10k-labels-idx1-ubyte.gz"]


def test_cifar_is_fetched_and_unpacked_and_its_archive_removed(
    server: Server, tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.cifar10(tmp_path / "original")
    folder = tmp_path / "original" / "cifar-10-batches-py"
    archive = tar_of(folder)
    monkeypatch.setattr(CIFAR10, "remotes", (server.offer("cifar-10-python.tar.gz", archive),))
    monkeypatch.setattr(
        CIFAR10, "digests", {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    )
    home = tmp_path / "home"
    assert len(CIFAR10().load(home).train) == 50
    assert everything(home)[0] == "cifar-10-batches-py"
    assert len(everything(home)) == 7
    by_hand = tmp_path / "by-hand"
    by_hand.mkdir()
    (by_hand / "cifar-10-python.tar.gz").write_bytes(archive)
    assert len(CIFAR10(download=False).load(by_hand).train) == 50
    assert (by_hand / "cifar-10-python.tar.gz").exists(), "an archive put there by hand stays"
    assert server.asked == ["cifar-10-python.tar.gz"]


def test_an_archive_put_by_hand_with_another_digest_is_refused(server: Server, tmp_path: Path) -> None:
    remote = server.offer("set.zip", zip_of({"set/a": b"1"}))
    (tmp_path / "set.zip").write_bytes(zip_of({"set/a": b"2"}))
    with pytest.raises(DataError, match=r"set\.zip has MD5 digest"):
        obtain(remote, tmp_path, tmp_path / "set")
    assert everything(tmp_path) == ["set.zip"]
    obtain(remote, tmp_path, tmp_path / "set", verify=False)
    assert (tmp_path / "set" / "a").read_bytes() == b"2"
    assert server.asked == []


def test_unpacking_adds_what_is_missing_and_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zip_of({"set/a": b"new", "set/deep/b": b"new", "other/c": b"new"}))
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "a").write_bytes(b"mine")
    unpack(tmp_path / "set.zip", tmp_path / "set")
    assert everything(tmp_path) == ["set", "set.zip", "set/a", "set/deep", "set/deep/b"]
    assert (tmp_path / "set" / "a").read_bytes() == b"mine"


def test_damaged_and_foreign_archives_leave_nothing(tmp_path: Path) -> None:
    whole = zip_of({"set/a": b"1" * 1000})
    contents = {"cut.zip": whole[:-30], "foreign.zip": zip_of({"x/a": b"1"}), "text.tar.gz": b"text", "empty.zip": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            unpack(tmp_path / name, tmp_path / "set")
        (tmp_path / name).unlink()
        assert everything(tmp_path) == []


def test_archives_cannot_write_outside_their_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(inside / "set.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"1"))
    with pytest.raises(DataError, match=r"set\.tar\.gz"):
        unpack(inside / "set.tar.gz", inside / "set")
    assert everything(tmp_path) == ["inside", "inside/set.tar.gz"]
