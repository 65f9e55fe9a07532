"""Files that ask for more than they hold, and pipes on which one would wait for ever: one sentence, in bounded memory
and time, and nothing is left behind.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import signal
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from poise.attacks import AdversarialSet
from poise.core import bounds
from poise.core.errors import CheckpointError, DataError, PoiseError
from poise.data import CIFAR10, SVHN, Digits, Folder, FolderPool, Npz, NpzPool, PseudoLabelled500K, Shards, Table
from poise.data.corruptions import corrupted
from poise.data.downloads import unpack
from poise.data.mnist import MNIST
from poise.data.pickles import read_pickle
from poise.engine import Run
from poise.engine.foreign_weights import foreign_weights
from poise.engine.own_weights import data_named
from poise.reports.gallery import read_gallery
from poise.verbs.pseudo_label import parts_of

Act = Callable[[Path], object]
FREELY = 2**20
DATA = Digits(train_images=20, test_images=20).load()


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Less is unpacked freely than in use, so that bombs may be small; taking more memory or time fails."""

    def late(*_: object) -> None:
        raise AssertionError("it goes on without end")

    monkeypatch.setattr(bounds, "_FREELY", FREELY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("POISE_WORKERS", "0")
    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)
    assert peak < 64 * FREELY, f"{peak:,} bytes"


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if "cache" not in path.parts]


def refused(act: Act, folder: Path, words: str = ".", kind: type[PoiseError] = PoiseError) -> None:
    before = files_of(folder)
    with pytest.raises(kind, match=words) as error:
        act(folder)
    assert "\n" not in str(error.value), error.value
    assert files_of(folder) == before


def head(shape: tuple[int, ...], descr: str = "|u1", text: str | None = None) -> bytes:
    """The head of an .npy file, without its content."""
    text = text if text is not None else repr({"descr": descr, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) + 1) + text.encode() + b"\n"


def npz(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


ZEROS = b"\0" * (48 * FREELY)
IMAGES, LABELS = array(np.zeros((4, 8, 8), np.uint8)), array(np.arange(4) % 2)
HEADS = {
    "10^15 images": head((10**15, 8, 8)),
    "a size beyond all machines": head((2**70, 8, 8)),
    "a product beyond all machines": head((2**40, 2**40, 2**40)),
    "a size below 0": head((-1, 8, 8)),
    "a head of 10^9 bytes": b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**9) + b" " * 1000,
    "a head that is nested": head((), text="(" * 9000),
    "another kind of size": head((), text="{'descr': '|u1', 'fortran_order': False, 'shape': (1.5, 8, 8)}"),
    "items of 10^9 bytes": head((1,), descr="|V1000000000"),
    "images that are unpacked from nothing": head((48 * FREELY // 64, 8, 8)) + ZEROS,
}
READERS: dict[str, Act] = {
    "Npz": lambda folder: Npz(path=str(folder / "a.npz")).load(),
    "NpzPool": lambda folder: NpzPool(path=str(folder / "a.npz"), images="x_train", labels="y_train").open(DATA),
    "parts to label": lambda folder: parts_of(folder / "a.npz", 1),
    "--data": lambda folder: data_named(str(folder / "a.npz")),
    "a gallery": lambda folder: read_gallery(folder / "a.npz", ["a", "b"]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("words", HEADS)
def test_an_array_that_says_it_is_larger_than_its_file_is_refused(words: str, reader: str, tmp_path: Path) -> None:
    bad = HEADS[words]
    names = ("x", "x_adv", "label", "natural", "adversarial", "attack") if reader == "a gallery" else ("x_train",)
    many = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    npz(tmp_path / "a.npz", **{**({} if reader == "a gallery" else many), **dict.fromkeys(names, bad)})
    if reader == "parts to label" and words.startswith("images"):  # of which a part at a time is in memory
        assert parts_of(npz(tmp_path / "b.npz", image=bad), 1).count == 48 * FREELY // 64
        return
    refused(READERS[reader], tmp_path, r"a\.npz")


@pytest.mark.parametrize("words", [words for words in HEADS if not words.startswith("images")])
def test_an_npy_file_that_says_it_is_larger_than_it_is_is_refused(words: str, tmp_path: Path) -> None:
    for name in ("a.npy", "fog.npy", "labels.npy"):
        (tmp_path / name).write_bytes(HEADS[words])
    refused(lambda folder: parts_of(folder / "a.npy", 1), tmp_path, r"a\.npy", DataError)
    refused(lambda folder: corrupted(folder, "fog", 1, DATA), tmp_path, r"fog\.npy", DataError)


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return opening * depth + closing * depth + b"."


def shared(levels: int) -> bytes:
    """Ten lists that are the same, of which each holds ten lists that are the same, ...: 10 ** levels."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * 10
    return pickle.dumps(value, 2)


PICKLES = {
    "tuples in tuples as a key": b"}" + b")" + b"\x85" * 10**5 + b"K\x01s.",
    "tuples in tuples": b")" + b"\x85" * 10**5 + b".",
    "lists in lists": nested(10**4, b"]", b"a").replace(b"]a", b"]", 1)[:-2] + b".",
    "lists that unfold to 10^12": shared(12),
    "dictionaries that unfold": b"}"
    + b"q\x00"
    + b"".join(b"}" + b"K\x01h%cs" % n + b"K\x02h%csq%c" % (n, n + 1) for n in range(60))
    + b".",
    "a place of 2^31 in its memory": b"]r\xff\xff\xff\x7f.",
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "an array of bytes of 10^12": b"\x96" + struct.pack("<Q", 10**12) + b"a.",
    "a frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a number of 2^31 bytes": b"\x8b\xff\xff\xff\x7f1.",
    "a number of 10^6 digits": b"I" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.parametrize("words", PICKLES)
def test_a_pickle_that_grows_is_refused_wherever_pickles_are_read(words: str, tmp_path: Path) -> None:
    content = PICKLES[words]
    refused(lambda folder: read_pickle(content, "a.bin"), tmp_path, r"a\.bin", DataError)
    (tmp_path / "a.pickle").write_bytes(content)
    pool = PseudoLabelled500K(path=str(tmp_path / "a.pickle"))
    refused(lambda folder: pool.open(DATA), tmp_path, r"a\.pickle", DataError)
    refused(lambda folder: parts_of(folder / "a.pickle", 1), tmp_path, r"a\.pickle", DataError)
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in CIFAR10.required:
        (batches / name).write_bytes(content)
    refused(lambda folder: CIFAR10(verify=False, download=False).load(folder), tmp_path, "data_batch_1", DataError)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(levels):
        value = {"a": value}
    return value


def wide(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.zeros(1)}
    for _ in range(levels):
        value = dict.fromkeys("abcdefghij", value)
    return value


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 10**12)


def torch_bomb(path: Path) -> None:
    """A torch file whose one record unpacks to zeros."""
    torch.save({"w": torch.zeros(12 * FREELY)}, path)
    with zipfile.ZipFile(path) as plain:
        content = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dictionaries in dictionaries": (lambda path: torch.save(deep(150), path), "nested too deeply"),
    "dictionaries that unfold to 10^9": (lambda path: torch.save(wide(9), path), "unfolds to more than"),
    "a tensor of one number repeated": (
        lambda path: torch.save({"w": torch.zeros(1).expand(10**12)}, path),
        "unpack to",
    ),
    "many such": (
        lambda path: torch.save({str(n): torch.zeros(9).expand(10**6, 9) for n in range(9)}, path),
        "unpack to",
    ),
    "an archive that unpacks to zeros": (torch_bomb, "unpack to"),
    "a pickle of tuples": (lambda path: path.write_bytes(PICKLES["tuples in tuples as a key"]), "."),
    "a sparse file of a terabyte": (sparse, "."),
}


@pytest.mark.parametrize("words", WEIGHTS)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_grow_are_refused(words: str, suffix: str, tmp_path: Path) -> None:
    write, said = WEIGHTS[words]
    write(tmp_path / f"a.{suffix}")
    refused(
        lambda folder: foreign_weights(folder / f"a.{suffix}"),
        tmp_path,
        said if suffix == "pt" else ".",
        CheckpointError,
    )


def test_a_gzip_file_without_end_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST.required:
        (raw / f"{name}.gz").write_bytes(gzip.compress(ZEROS))
    refused(
        lambda folder: MNIST(verify=False, download=False).load(folder), tmp_path, "unpacks to more than", DataError
    )
    with pytest.raises(DataError, match="MD5"):
        MNIST(download=False).load(tmp_path)


def tar_gz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def long_head(path: Path) -> Path:
    """A head for the next member, of which it says that it is as long as all memory."""
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 10**12
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + ZEROS))
    return path


def packed(path: Path, content: bytes = ZEROS) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b", content)
    return path


def negative(size: int) -> bytes:
    info = tarfile.TarInfo("a/0.png")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "a zip of zeros": lambda folder: packed(folder / "a.zip"),
    "a tar of zeros": lambda folder: tar_gz(folder / "a.tar.gz", {"a/b": ZEROS}),
    "many members of zeros": lambda folder: tar_gz(folder / "a.tar.gz", {f"a/{n}": ZEROS[:FREELY] for n in range(40)}),
    "a head of all memory": lambda folder: long_head(folder / "a.tar.gz"),
}


@pytest.mark.parametrize("words", ARCHIVES)
def test_an_archive_that_unpacks_without_end_leaves_nothing(words: str, tmp_path: Path) -> None:
    archive = ARCHIVES[words](tmp_path)
    refused(lambda folder: unpack(archive, folder / "a"), tmp_path, "unpack", DataError)


SHARDS = {
    "a member of 10^15 bytes": negative(10**15),
    "a member of less than no bytes": negative(-512),
    "a member that leads back": negative(-1024) * 3,
    "a head of 10^12 bytes": tarfile.TarInfo("a").tobuf().replace(b"00000000000", b"77777777777", 1)[:156]
    + b"x"
    + b"\0" * 355,
}


@pytest.mark.parametrize("words", SHARDS)
def test_a_shard_whose_members_are_of_no_size_is_refused(words: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SHARDS[words] + b"\0" * 10240)
    refused(lambda folder: Shards(path=str(folder / "a.tar")).load(), tmp_path, r"a\.tar", DataError)


def test_a_shard_whose_label_is_no_label_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.cls")
        info.size = 2 * FREELY
        archive.addfile(info, io.BytesIO(ZEROS))
    refused(lambda folder: Shards(path=str(folder / "a.tar")).load(), tmp_path, "too many for a label", DataError)
    refused(lambda folder: Shards(path=str(folder / "a-{0..999999999999}.tar")).load(), tmp_path, "names more than")


def png(width: int, height: int) -> bytes:
    """The head of a PNG that says its size, and next to no content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


PICTURES = {
    "10^9 by 10^9 pixels": png(10**9, 10**9),
    "2^31 columns": png(2**31 - 1, 1),
    "a hundred million pixels": png(10**4, 10**4),
    "a bitmap": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 10**5, 10**5, 1, 24, 0, 0, 0, 0, 0, 0),
    "a portable map": b"P6 99999 99999 255\n" + b"\0" * 99,
}


@pytest.mark.parametrize("words", PICTURES)
def test_an_image_of_gigantic_size_is_refused_by_every_reader(words: str, tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "in" / name / f"{number}.png").write_bytes(PICTURES[words])
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"in/{k}/{n}.png,{k}\n" for k in "01" for n in "01"))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("0.png", PICTURES[words]), ("0.cls", b"1"), ("1.png", PICTURES[words]), ("1.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for make in (
        lambda folder: Folder(path=str(folder / "in")).load(),
        lambda folder: Folder(path=str(folder / "in"), image_size=8).load(),
        lambda folder: Folder(path=str(folder / "in"), image_size=8, decode="cache").load(),
        lambda folder: Table(path=str(folder / "a.csv"), image_size=8).load(),
        lambda folder: Shards(path=str(folder / "a.tar"), image_size=8).load(),
        lambda folder: FolderPool(path=str(folder / "in"), image_size=8).open(DATA),
        lambda folder: next(parts_of(folder / "in", 1).read()),
    ):
        refused(make, tmp_path, r"\.png", DataError)


def mat(name: bytes, content: bytes, kind: int = 9) -> bytes:
    """A variable of a MATLAB file, compressed: `kind` 9 is uint8, 1 a cell."""

    def element(number: int, data: bytes) -> bytes:
        return struct.pack("<II", number, len(data)) + data + b"\0" * (-len(data) % 8)

    flags, sizes = element(6, struct.pack("<II", kind, 0)), element(5, struct.pack("<iiii", 32, 32, 3, 1))
    whole = element(14, flags + sizes + element(1, name) + (content if kind == 1 else element(2, content)))
    packed = zlib.compress(whole)
    return struct.pack("<II", 15, len(packed)) + packed


def cells(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        inside = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1) + struct.pack("<II", 1, 0) + value
        value = struct.pack("<II", 14, len(inside)) + inside
    return value


MATLAB = {
    "zeros without end": mat(b"X", ZEROS),
    "a cell in a cell": mat(b"X", cells(1000), kind=1),
    "zeros behind a small one": mat(b"X", b"\0" * 3072) + mat(b"Z", ZEROS),
}


@pytest.mark.parametrize("words", MATLAB)
def test_a_matlab_file_that_grows_is_refused(words: str, tmp_path: Path) -> None:
    (tmp_path / "SVHN").mkdir()
    for name in SVHN.required:
        text = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
        (tmp_path / "SVHN" / name).write_bytes(text + MATLAB[words])
    refused(lambda folder: SVHN(verify=False, download=False).load(folder), tmp_path, "train_32x32", DataError)


PIPES: dict[str, tuple[str, Act]] = {
    "Npz": ("a.npz", lambda folder: Npz(path=str(folder / "a.npz")).load()),
    "--data": ("a.npz", lambda folder: data_named(str(folder / "a.npz"))),
    "NpzPool": ("a.npz", READERS["NpzPool"]),
    "a pool's pickle": (
        "a.pickle",
        lambda folder: PseudoLabelled500K(path=str(folder / "a.pickle")).open(DATA),
    ),
    "Table": ("a.csv", lambda folder: Table(path=str(folder / "a.csv")).load()),
    "Shards": ("a.tar", lambda folder: Shards(path=str(folder / "a.tar")).load()),
    "an image": ("in/0/a.png", lambda folder: Folder(path=str(folder / "in")).load()),
    "an image of a pool": ("in/0/a.png", lambda folder: FolderPool(path=str(folder / "in")).open(DATA)),
    "a batch": ("cifar-10-batches-py/data_batch_1", lambda folder: CIFAR10(download=False).load(folder)),
    "images to label": ("a.npy", lambda folder: parts_of(folder / "a.npy", 1)),
    "a pickle to label": ("a.pickle", lambda folder: parts_of(folder / "a.pickle", 1)),
    "weights": ("a.pt", lambda folder: foreign_weights(folder / "a.pt")),
    "a set of images": ("a.st", lambda folder: AdversarialSet.load(folder / "a.st")),
    "a gallery": ("a.npz", READERS["a gallery"]),
    "settings": ("run/experiment.json", lambda folder: Run.open(folder / "run")),
}


@pytest.mark.parametrize("words", PIPES)
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_no_reader_waits_on_a_pipe_or_reads_a_device(words: str, what: str, tmp_path: Path) -> None:
    name, act = PIPES[words]
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if words.startswith("an image"):
        (tmp_path / "in" / "1").mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "1" / "a.png")
    if words == "a batch":
        for other in CIFAR10.required:
            (place.parent / other).write_bytes(b"")
        place.unlink()
    os.mkfifo(place) if what == "pipe" else place.symlink_to("/dev/zero")
    refused(act, tmp_path, place.name.partition(".")[0])


def test_folders_that_link_to_one_another_are_refused(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / "in" / name / "b").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / name / "a.png")
    for link in ("x", "y"):
        (tmp_path / "in" / "0" / "b" / link).symlink_to(tmp_path / "in" / "0")
    refused(lambda folder: Folder(path=str(folder / "in"), nested=True).load(), tmp_path, "taken already", DataError)


def test_honest_files_are_read_as_before(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    assert Npz(path=str(tmp_path / "a.npz")).load().shape == (1, 8, 8)
    columns = np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4))
    np.savez(tmp_path / "b.npz", columns=columns, none=np.zeros((0, 3)), word=np.array("word"), one=np.array(2))
    arrays = bounds.read_arrays(tmp_path / "b.npz")
    np.testing.assert_array_equal(arrays["columns"], columns)
    assert (arrays["none"].shape, str(arrays["word"]), int(arrays["one"])) == ((0, 3), "word", 2)
    torch.save({"net": {"w": torch.arange(6.0).view(2, 3)}, "epoch": 3}, tmp_path / "a.pt")
    assert foreign_weights(tmp_path / "a.pt")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    tar_gz(tmp_path / "a.tar.gz", {"a/b": b"content"})
    unpack(tmp_path / "a.tar.gz", tmp_path / "a")
    assert (tmp_path / "a" / "b").read_bytes() == b"content"
