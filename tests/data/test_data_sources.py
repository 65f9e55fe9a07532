"""Where a user's own image files may lie: nested folders, tables, tar shards, data sets of the Hugging Face library."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from poise.core.errors import DataError, MissingExtraError, PoiseError, SettingsError
from poise.core.settings import from_json, to_json
from poise.data import Data, DataSource, Folder, HuggingFace, Shards, Table


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("POISE_WORKERS", "0")


def grey(shade: int) -> np.ndarray:
    return np.full((6, 6, 3), shade, dtype=np.uint8)


def shades(data: Data) -> list[int]:
    return data.train.images[:, 0, 0, 0].tolist()


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey(shade)).save(file, "PNG")
    return file.getvalue()


def write_table(root: Path, write: SimpleNamespace, rows: list[str], head: str = "path,label,split") -> Path:
    for number in range(6):
        write.image(root / "images" / f"{number}.png", grey(10 * number))
    (root / "pets.csv").write_text("\n".join([head, *rows]) + "\n")
    return root / "pets.csv"


ROWS = [
    "images/0.png,10,train",
    "images/1.png,9,train",
    "images/2.png,9,train",
    "images/3.png,10,val",
    "images/4.png,9,val",
]


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_images_deeper_than_a_class_are_taken_where_that_is_asked_for(tmp_path: Path, write: SimpleNamespace) -> None:
    for name, shade in (
        ("a/0.png", 1),
        ("a/x/0.png", 2),
        ("a/x/y/0.png", 3),
        ("b/0.png", 11),
        ("b/.trash/1.png", 12),
        ("b/z/0.png", 13),
    ):
        write.image(tmp_path / "train" / name, grey(shade))
        write.image(tmp_path / "test" / name, grey(shade))
    assert sorted(shades(Folder(path=str(tmp_path)).load())) == [1, 11]
    assert sorted(shades(Folder(path=str(tmp_path), nested=True).load())) == [1, 2, 3, 11, 13]


def test_classes_may_be_named_ordered_and_joined(tmp_path: Path, write: SimpleNamespace) -> None:
    for label, name in enumerate(("n01", "n02", "n03")):
        for number in range(4):
            write.image(tmp_path / name / f"{number}.png", grey(10 * label))
    plain = Folder(path=str(tmp_path)).load()
    assert plain.classes == ("n01", "n02", "n03") and "its 3 classes in order: n01, n02, n03" in plain.remark
    names = {"n01": "dog", "n02": "cat", "n03": "dog"}
    source = Folder(path=str(tmp_path), label_map=names)
    assert from_json(DataSource, to_json(source)) == source
    for given, expected in ((None, ("dog", "cat")), (("cat", "dog"), ("cat", "dog"))):
        data = Folder(path=str(tmp_path), label_map=names, class_names=given).load()
        assert data.classes == expected
        assert [expected[label] for label in data.train.labels] == [
            {0: "dog", 10: "cat", 20: "dog"}[shade] for shade in shades(data)
        ]
        assert data.digest != plain.digest
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"class_names": ("n01", "n02")}, "'n03' is a class that class_names does not name"),
        (
            {"class_names": ("n01", "n02", "n03", "n04")},
            "no training image is of the class 'n04', which class_names names",
        ),
        ({"label_map": {"n1": "dog"}}, "has no label 'n1', which label_map names; did you mean 'n01'?"),
        ({"label_map": dict.fromkeys(("n01", "n02", "n03"), "pet")}, "holds images of 1 class, but needs at least 2"),
    )
    for wrong, sentence in cases:
        with pytest.raises(DataError, match=sentence.replace("?", r"\?")):
            Folder(path=str(tmp_path), **wrong).load()
    with pytest.raises(SettingsError, match=r"Folder.class_names = \('a', 'a'\): must be at least 2 different names"):
        Folder(path="x", class_names=("a", "a"))


def test_a_table_gives_paths_labels_and_splits(tmp_path: Path, write: SimpleNamespace) -> None:
    table = write_table(tmp_path, write, ROWS)
    data = Table(path="pets.csv").load(tmp_path)
    assert (data.name, data.classes, shades(data)) == (
        "pets",
        ("9", "10"),
        [0, 10, 20],
    ), "whole numbers are classes in their order"
    assert data.train.labels.tolist() == [1, 0, 0] and data.test.labels.tolist() == [1, 0]
    table.write_text(
        "file;kind\n".replace(";", ",") + "".join(f"images/{number}.png,{'ab'[number % 2]}\n" for number in range(6))
    )
    split = Table(path=str(table), path_column="file", label_column="kind", test_fraction=0.34).load()
    assert (len(split.train), len(split.test), split.classes) == (4, 2, ("a", "b"))


def test_a_parquet_table_is_the_csv_one(tmp_path: Path, write: SimpleNamespace) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow  # pyright: ignore[reportMissingImports]

    write_table(tmp_path, write, ROWS)
    rows = [dict(zip(("path", "label", "split"), row.split(","), strict=True)) for row in ROWS]
    parquet.write_table(
        pyarrow.Table.from_pylist([row | {"label": int(row["label"])} for row in rows]), tmp_path / "pets.parquet"
    )
    for column in ("train", "test"):
        left, right = (getattr(Table(path=f"pets.{end}").load(tmp_path), column) for end in ("csv", "parquet"))
        assert left.images.equal(right.images) and left.labels.equal(right.labels)
    (tmp_path / "pets.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"pets\.parquet is not a readable parquet file"):
        Table(path="pets.parquet").load(tmp_path)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([*ROWS, "images/9.png,9,train"], r"row 6: there is no file \S*images/9\.png"),
        ([*ROWS, ",9,train"], "row 6 has no path"),
        ([*ROWS, "images/0.png,,train"], "row 6 has no label"),
        ([*ROWS, "images/0.png,9,tests"], "row 6: split = 'tests', must be one of train"),
        ([*ROWS, "images/0.png,9"], "row 6 has fewer fields than the head"),
        ([*ROWS, "images/0.png,9,train,more"], "row 6 has more fields than the head"),
        ([*ROWS, "images/0.png,11,val"], "'11' is a class that no training image has"),
        ([], "has no rows"),
        (["images/3.png,10,val"], "names no image to train on"),
        ([*ROWS, '"images/0.png'], "is not a readable csv file"),
    ],
)
def test_a_damaged_row_is_refused_by_its_number(
    tmp_path: Path, write: SimpleNamespace, rows: list[str], sentence: str
) -> None:
    write_table(tmp_path, write, rows)
    with pytest.raises(DataError, match=sentence):
        Table(path="pets.csv").load(tmp_path)
    write_table(tmp_path, write, ROWS, head="paths,label,split")
    with pytest.raises(DataError, match=r"has no column 'path'; it has paths, label, split"):
        Table(path="pets.csv").load(tmp_path)


def members(first: int, count: int, kind: str = "cls") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number in range(first, first + count):
        label = number % 3
        found[f"{number:04}.png"] = png(number)
        found[f"{number:04}.{kind}"] = (
            json.dumps({"label": label}).encode() if kind == "json" else f"{label}\n".encode()
        )
    return found


@pytest.mark.parametrize("decode", ["resident", "cache", "workers"])
def test_shards_are_read_where_they_lie(tmp_path: Path, decode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "set" / "train-0000.tar", members(0, 6))
    write_shard(tmp_path / "set" / "train-0001.tar", members(6, 3, "json"))
    write_shard(tmp_path / "set" / "test-0000.tar", members(20, 4, "txt"))
    for pattern in ("set/train-*.tar", "set/train-{0000..0001}.tar"):
        data = Shards(path=pattern, test_path="set/test-*.tar", decode=decode).load(tmp_path)
        assert shades(data) == list(range(9)) and data.train.labels.tolist() == [number % 3 for number in range(9)]
        assert data.test.images[:, 0, 0, 0].tolist() == [20, 21, 22, 23] and data.classes == ("0", "1", "2")
    monkeypatch.setattr("poise.data.shards._scanned", pytest.fail)
    assert shades(Shards(path="set/train-*.tar", test_path="set/test-*.tar", decode=decode).load(tmp_path)) == list(
        range(9)
    )
    write_shard(tmp_path / "more" / "a.tar", members(0, 9))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(Shards(path="more").load(tmp_path).test) == 3


def test_a_damaged_shard_is_refused_by_name(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", members(0, 6))
    whole = shard.read_bytes()
    for content, sentence in (
        (b"no shard" * 100, "is not a readable shard"),
        (whole[:540], r"is cut off in 0000\.png"),
        (whole[:1030], "is cut off at its end"),
    ):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.tar {sentence}"):
            Shards(path="a.tar").load(tmp_path)
    write_shard(shard, {name: content for name, content in members(0, 6).items() if name != "0004.cls"})
    with pytest.raises(DataError, match=r"a\.tar, 0004\.png has no label beside it"):
        Shards(path="a.tar").load(tmp_path)
    write_shard(shard, members(0, 6) | {"0002.png": png(2)[:45]})
    with pytest.raises(DataError, match=r"a\.tar, 0002\.png is not a readable image"):
        Shards(path="a.tar").load(tmp_path)
    write_shard(shard, members(0, 6, "json") | {"0002.json": b"{}"})
    with pytest.raises(DataError, match=r"a\.tar, 0002\.json holds no label"):
        Shards(path="a.tar").load(tmp_path)
    for path, sentence in (("b-*.tar", "there is no shard b-"), ("{0000..0001}.tar", "there is no shard")):
        with pytest.raises(DataError, match=sentence):
            Shards(path=path).load(tmp_path)
    shard.rename(tmp_path / "x-0.tar")
    with pytest.raises(DataError, match=r"the shard \S*x-1\.tar of \S* is missing"):
        Shards(path="x-{0..1}.tar").load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_data_set_of_hugging_face_is_read_from_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(shade), "path": None} for shade in range(8)], "label": [0, 1] * 4}
    whole = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})
    whole.save_to_disk(tmp_path / "pets")
    for decode in ("resident", "cache", "workers"):
        data = HuggingFace(path="pets", test_fraction=0.25, decode=decode).load(tmp_path)
        assert data.classes == ("cat", "dog") and shades(data) == data.train.ids.tolist() and len(data.test) == 2
        assert data.train.labels.tolist() == [number % 2 for number in data.train.ids]
    with pytest.raises(DataError, match=r"pets has no column 'picture'"):
        HuggingFace(path="pets", image_column="picture").load(tmp_path)
    with pytest.raises(DataError, match=r"pets, split 'valid', cannot be opened"):
        HuggingFace(path="pets", split="valid").load(tmp_path)
    rows["image"][3] = {"bytes": b"no image", "path": None}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "damaged")
    with pytest.raises(DataError, match=r"damaged\[train\], row 3 is not a readable image"):
        HuggingFace(path="damaged", decode="resident").load(tmp_path)


@pytest.mark.parametrize(
    ("source", "module", "extra"), [(HuggingFace, "datasets", "huggingface"), (Table, "pyarrow", "parquet")]
)
def test_without_the_library_the_line_that_installs_it_is_said(
    source: Any, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=rf"pip install 'poise\[{extra}\]'"):
        source(path="x.parquet").load(tmp_path)
    assert issubclass(MissingExtraError, PoiseError)
