"""The hub by its own library, against a server on this machine that speaks the endpoints which that asks for."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import poise
from poise.core.errors import CheckpointError, MissingExtraError, SettingsError, StorageError
from poise.data import Digits
from poise.engine import Experiment, Run
from poise.evaluation import Protocol
from poise.evaluation.sanity.subject import Effort
from poise.learners import Policy
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.objectives import NT
from poise.threats import Linf

needed = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is in the extras"
)
TOKEN = "hf_" + "s3cretword" * 4
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: {name: {path: content}}."""

    repositories: dict[str, dict[str, bytes]] = {}
    asked: list[str] = []
    tokens: set[str] = set()

    def log_message(self, format: str, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note()
        if self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            self.repositories.setdefault(name, {})
            self._json({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": file["path"], **plain} for file in files]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path.partition("?")[0]):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.repositories[match[1]][entry["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/{match[1]}/commit/{COMMIT}"
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self.send_error(404)

    def _note(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if token := self.headers.get("Authorization"):
            self.tokens.add(token)

    def _answer(self) -> None:
        self._note()
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if info and info[1] in self.repositories:
            names = [{"rfilename": name} for name in self.repositories[info[1]]]
            self._json({"id": info[1], "modelId": info[1], "sha": COMMIT, "siblings": names, "private": False})
        elif file and file[2] in self.repositories.get(file[1], {}):
            content = self.repositories[file[1]][file[2]]
            self._send(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif path == "/api/whoami-v2":
            self._json({"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}, "orgs": []})
        else:
            self.send_response(404)
            self.send_header(
                "X-Error-Code", "EntryNotFound" if file and file[1] in self.repositories else "RepoNotFound"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, data: Any) -> None:
        self._send(json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Hub.repositories, Hub.asked, Hub.tokens = {}, [], set()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if importlib.util.find_spec("huggingface_hub") is not None:
        from huggingface_hub import constants  # pyright: ignore[reportMissingImports]

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pgd = poise.attacks.PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
    small = Experiment(
        name="small",
        data=Digits(train_images=200, test_images=40),
        model=DigitsCNN(width=4),
        method=Joint(policy=Policy(objective=NT()), batch_size=50),
        protocol=Protocol(name="tiny", attacks=(pgd,)),
        precision="float32",
        epochs=2,
        seed=3,
    )
    run = poise.train(small, tmp_path_factory.mktemp("hub") / "run")
    poise.evaluate(run)
    poise.sanity(run, first=16, effort=Effort(queries=10, substitute_steps=2, steps=4, autoattack_steps=4))
    return run


PULL = """
import json, sys, torch, poise
torch.set_num_threads(1)
record = poise.evaluate(sys.argv[1], device="cpu")
print(json.dumps([record.natural, [attack.predicted for attack in record.attacks], record.model_digest]))
"""


@needed
def test_what_is_pushed_gives_the_same_verdicts_in_an_empty_environment(
    hub: type[Hub], run: Run, tmp_path: Path
) -> None:
    assert poise.push(run, "me/small-digits", good_for="a test") == "hf://me/small-digits"
    files = hub.repositories["me/small-digits"]
    assert {"model.safetensors", "config.json", "README.md", "record.json", "sanity.json"} < files.keys()
    card = files["README.md"].decode()
    record = poise.evaluate(run)
    for shown in (f"{100 * record.natural_accuracy:.2f}", f"{100 * record.accuracy('PGD-2'):.2f}", "a test", "Sanity"):
        assert shown in card
    info = json.loads(files["model_info/digits/Linf/small.json"])
    assert (info["clean_acc"], info["dataset"]) == (f"{100 * record.natural_accuracy:.2f}", "digits")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PULL, "hf://me/small-digits"],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    natural, attacked, digest = json.loads(done.stdout.splitlines()[-1])
    assert (natural, attacked) == (record.natural, [attack.predicted for attack in record.attacks])
    assert digest == record.model_digest
    assert hub.tokens == {f"Bearer {TOKEN}"}, "the library found the token by itself"
    for file in (file for place in (tmp_path, run.path) for file in place.rglob("*") if file.is_file()):
        assert TOKEN.encode() not in file.read_bytes(), file


@needed
def test_other_programs_read_it_by_the_hubs_mixin(run: Run, tmp_path: Path) -> None:
    from poise.interop.hub.mixin import HubNetwork

    poise.push(run, f"folder:{tmp_path / 'small'}")
    network, ours = HubNetwork.from_pretrained(tmp_path / "small"), poise.load(tmp_path / "small")
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(x), ours(x)) and network.state_dict().keys() == ours.state_dict().keys()


@needed
def test_what_is_not_there_is_one_sentence(hub: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hf://me/none cannot be had: there is no such repository") as refusal:
        poise.load("hf://me/none")
    assert "\n" not in str(refusal.value)
    hub.repositories["me/empty"] = {"README.md": b"nothing"}
    with pytest.raises(CheckpointError, match=r"hf://me/empty cannot be had: it holds no network of Poise's"):
        poise.load("hf://me/empty")
    hub.repositories["me/foreign"] = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}
    with pytest.raises(CheckpointError, match=r"config\.json of hf://me/foreign is none of Poise's"):
        poise.load("hf://me/foreign")
    for wrong in ("hf://me", "hf://me/a/b", "hf:///a", "hf://../a"):
        with pytest.raises(SettingsError, match="must be hf://owner/name"):
            poise.load(wrong)


@needed
def test_without_a_network_it_is_one_sentence_and_a_handful_of_tries(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # pyright: ignore[reportMissingImports]

    tries = []

    class Closing(BaseHTTPRequestHandler):
        def handle(self) -> None:
            tries.append(1)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Closing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(CheckpointError, match=r"hf://me/small cannot be had: the hub cannot be reached"):
            poise.load("hf://me/small")
        with pytest.raises(StorageError, match=r"hf://me/small cannot be had: the hub cannot be reached"):
            poise.push(run, "me/small")
    finally:
        server.shutdown()
        server.server_close()
    assert 0 < len(tries) <= 12
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
        poise.load("hf://me/small")


def test_without_the_library_the_line_that_installs_it_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: poise.load("hf://me/small"), lambda: poise.push(run, "me/small")):
        with pytest.raises(MissingExtraError, match=r"pip install 'poise\[hub\]'"):
            ask()
