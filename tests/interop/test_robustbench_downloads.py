"""Weights fetched by RobustBench's names, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poise.core.errors import CheckpointError
from poise.interop.robustbench import load_model
from poise.interop.robustbench.downloads import addresses
from poise.models import ResNet18

NAME = "Sehwag2021Proxy_R18"


class Mirror(BaseHTTPRequestHandler):
    content: bytes = b""
    status = 200
    asked: list[str] = []

    def log_message(self, format: str, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mirror]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("POISE_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    network, buffer = ResNet18(width=4).build((3, 32, 32), 10, seed=1), io.BytesIO()
    torch.save({"state_dict": {f"module.{name}": part for name, part in network.state_dict().items()}}, buffer)
    Mirror.content, Mirror.status, Mirror.asked = buffer.getvalue(), 200, []
    yield Mirror
    server.shutdown()
    server.server_close()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_weights_are_fetched_once_and_compared_ever_after(mirror: type[Mirror], tmp_path: Path, x: Tensor) -> None:
    first = load_model(NAME, model_dir=tmp_path, threat_model="L2")
    assert mirror.asked == [f"/cifar10/L2/{NAME}.pt"]
    assert torch.equal(first(x), ResNet18(width=4).build((3, 32, 32), 10, seed=1).eval()(x))
    folder = tmp_path / "cifar10" / "L2"
    digest = hashlib.sha256(mirror.content).hexdigest()
    assert {path.name for path in folder.iterdir()} == {f"{NAME}.pt", f"{NAME}.pt.sha256"}
    assert (folder / f"{NAME}.pt.sha256").read_text() == f"{digest}  {NAME}.pt\n"
    assert torch.equal(load_model(NAME, model_dir=tmp_path, threat_model="L2", sha256=digest)(x), first(x))
    assert len(mirror.asked) == 1
    with pytest.raises(CheckpointError, match=r"is not what was fetched or asked for: its SHA-256 is"):
        load_model(NAME, model_dir=tmp_path, threat_model="L2", sha256="0" * 64)
    content = bytearray(mirror.content)
    content[len(content) // 2] ^= 1
    (folder / f"{NAME}.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not what was fetched or asked for"):
        load_model(NAME, model_dir=tmp_path, threat_model="L2")


@pytest.mark.parametrize(
    ("status", "content", "sha256", "why"),
    [
        (404, b"", None, "HTTP status 404"),
        (200, b"<html>quota</html>", None, "it answered with a page, not with weights"),
        (200, b"other", "0" * 64, "its SHA-256 is not the one that was asked for"),
    ],
)
def test_what_fails_is_one_sentence_after_one_try_and_leaves_nothing(
    mirror: type[Mirror], tmp_path: Path, status: int, content: bytes, sha256: str | None, why: str
) -> None:
    mirror.status, mirror.content = status, content
    with pytest.raises(CheckpointError, match=rf"{NAME} could not be downloaded from .*{why}.*put it at") as refusal:
        load_model(NAME, model_dir=tmp_path, sha256=sha256)
    assert "\n" not in str(refusal.value) and len(mirror.asked) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_a_network_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=rf"{NAME} could not be downloaded from http://127\.0\.0\.1:9/"):
        load_model(NAME, model_dir=tmp_path)


def test_a_mistyped_name_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'Carmon2019Unlabeled'\?; put it there"):
        load_model("Carmon2019Unlabelled", model_dir=tmp_path)
    assert sum(len(names) for threats in addresses().values() for names in threats.values()) == 55
