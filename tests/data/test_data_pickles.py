"""The restricted unpickler: reads number arrays of all pickle protocols, calls nothing."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.core.errors import DataError, UntrustedFileError
from poise.data.pickles import read_pickle


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "f8", "?"])
def test_arrays_of_numbers_are_read_as_they_were_written(protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for written in (array, np.asfortranarray(array), array[:0], np.array(array[1, 1, 1])):
        read = read_pickle(pickle.dumps({"data": [written]}, protocol), "f")["data"][0]
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_they_were_written(protocol: int) -> None:
    plain = {"a": [1, -(2**70), 2.5, True, None], b"b": ("text", b"\x00\xff", b""), "s": np.float32(1.5)}
    assert read_pickle(pickle.dumps(plain, protocol), "f") == plain


def test_names_of_old_and_new_numpy_are_both_known() -> None:
    new = pickle.dumps(np.arange(3, dtype=np.uint8), protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for content in (old, new):
        assert read_pickle(content, "f").tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "made-by-pickle"
    content = pickle.dumps({"data": Calls(os.mkdir, str(target))}, protocol)
    with pytest.raises(UntrustedFileError, match=r"evil\.bin asks for (posix|nt)\.mkdir"):
        read_pickle(content, "evil.bin")
    assert not target.exists()
    pickle.loads(content)
    assert target.is_dir(), "the pickle was harmless, so this test showed nothing"


@pytest.mark.parametrize(
    "function",
    [builtins.eval, builtins.getattr, collections.OrderedDict, np.load, io.BytesIO],
    ids=lambda f: f.__name__,
)
def test_every_other_name_is_refused(function: Any) -> None:
    with pytest.raises(UntrustedFileError, match=function.__name__):
        read_pickle(pickle.dumps(Calls(function, "1+1"), 2), "f")


HOSTILE = {
    "objects in an array": pickle.dumps(np.array([{}, "x"], dtype=object)),
    "texts in an array": pickle.dumps(np.array(["x"])),
    "records in an array": pickle.dumps(np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])),
    "shape beyond the bytes": pickle.dumps(np.zeros(4, dtype=np.uint8), 2).replace(b"K\x04\x85", b"K\x64\x85"),
    "array without content": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR.",
    "state for a stand-in": b"c_codecs\nencode\n(N}V__defaults__\n(V1\nttb.",
    "attributes for a class": b"cnumpy\ndtype\n(N}Vmade\nNst b.",
    "a name left over": b"cnumpy\ndtype\n.",
    "truncated": pickle.dumps({"data": np.zeros(100, dtype=np.uint8)}, 2)[:-20],
    "empty": b"",
    "no pickle": b"\x89PNG\r\n\x1a\n",
    "itself inside itself": b"]q\x00h\x00a.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_plain_data_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"bad\.bin"):
        read_pickle(content, "bad.bin")
