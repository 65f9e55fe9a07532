"""Reading pickled arrays without running what a pickle asks for.

A pickle is a program. This reader knows only the few names that pickled NumPy arrays use and replaces each by a
stand-in that accepts numbers and bytes; any other name ends the reading before anything was called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from typing import Any, BinaryIO, cast

import numpy as np

from poise.core.bounds import check_fits, check_nested
from poise.core.errors import DataError, UntrustedFileError

_NUMBERS = re.compile(r"^[<>=|]?[biuf][1248]$")


class _Sealed:
    """A stand-in whose state a pickle cannot set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise ValueError(f"{type(self).__name__} takes no state")


class _DType(_Sealed):
    """numpy.dtype of plain numbers: `dtype("u1", False, True)`, then its byte order as state."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _NUMBERS.match(code):
            raise ValueError(f"arrays of type {code!r} are not read")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise ValueError("a dtype's state must be a tuple")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r} is not known")
        self.code = order + self.code.lstrip("<>|=")

    def made(self) -> np.dtype:
        return np.dtype(self.code)


def _array(raw: object, dtype: object, shape: object, fortran: bool) -> np.ndarray:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray) or not sizes:
        raise ValueError("an array must be made of a type, a shape and bytes")
    return np.frombuffer(bytes(raw), dtype=dtype.made()).reshape(shape, order="F" if fortran else "C")  # type: ignore[arg-type]


class _Array(_Sealed):
    """numpy.ndarray: made empty, then filled by its state (version, shape, dtype, is Fortran, bytes)."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array's state must have five parts")
        _, shape, dtype, fortran, raw = state
        self.value = _array(raw, dtype, shape, bool(fortran))


class _FromBuffer(_Sealed):
    """numpy's constructor of protocol 5: (buffer, dtype, shape, order)."""

    __slots__ = ()

    def __new__(cls, raw: object, dtype: object, shape: object, order: object) -> Any:
        return _array(raw, dtype, shape, order == "F")


class _Scalar(_Sealed):
    """numpy's scalar: (dtype, bytes)."""

    __slots__ = ()

    def __new__(cls, dtype: object, raw: object) -> Any:
        return _array(raw, dtype, (), False)[()]


class _Encode(_Sealed):
    """_codecs.encode, by which Python 3 writes bytes into old pickles."""

    __slots__ = ()

    def __new__(cls, text: object, encoding: object = "latin1") -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("only latin1 text is encoded")
        return text.encode("latin1")


class _Bytes(_Sealed):
    """bytes() or bytearray(), by which empty bytes are written into old pickles."""

    __slots__ = ()

    def __new__(cls, content: object = b"") -> Any:
        if not isinstance(content, bytes | bytearray):
            raise ValueError("bytes are made of bytes only")
        return bytes(content)


_KNOWN: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _Bytes,
    ("builtins", "bytes"): _Bytes,
    ("builtins", "bytearray"): _Bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[_core + ".multiarray", "_reconstruct"] = _Array
    _KNOWN[_core + ".multiarray", "scalar"] = _Scalar
    _KNOWN[_core + ".numeric", "_frombuffer"] = _FromBuffer


_OPCODES, _TUPLES, _PARTS = 10**7, 10**4, 10**7
"""More than any file of arrays, names and labels has. Tuples are counted as the hash of one inside one inside one is
taken on the processor's own stack.
"""


class _Whole:
    """A file of which never more is asked for than it has left."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.file, self.tell, self.readline = file, file.tell, file.readline

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.size - self.tell()))


def _check_program(file: BinaryIO) -> None:
    """Look through the pickle without carrying it out. Raises: ValueError for what takes memory or time beyond what it
    holds.
    """
    tuples = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, _Whole(file)))):
        tuples += opcode.name.startswith("TUPLE")
        if number > _OPCODES or tuples > _TUPLES:
            raise ValueError(f"it has more than {_OPCODES:,} instructions or {_TUPLES:,} tuples")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > max(number, 255):  # and all before
            raise ValueError(f"it keeps a part at place {argument:,} of its memory")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, origin: object, encoding: str) -> None:
        super().__init__(file, encoding=encoding, fix_imports=False)
        self.origin = origin

    def find_class(self, module: str, name: str) -> Any:
        known_class = _KNOWN.get((module, name))
        if known_class is None:
            raise UntrustedFileError(f"{self.origin} asks for {module}.{name}, which could run code, and was not read")
        return known_class


def read_pickle(content: bytes | BinaryIO, origin: object, encoding: str = "latin1") -> Any:
    """The plain containers, texts, numbers and number arrays in a pickle or in an open file of one; arrays are
    read-only.

    `origin` names the file in errors; `encoding` is for texts written by Python 2.
    Raises: UntrustedFileError naming the first other global the pickle asks for; DataError for a damaged pickle.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        check_fits(file.seek(0, io.SEEK_END))
        _check_program(file)
        file.seek(0)
        value = _Unpickler(file, origin, encoding).load()
        check_nested(value, most=_PARTS)
        return _plain(value)
    except UntrustedFileError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise almost anything
        raise DataError(f"{origin} is not a whole pickle of numbers: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array has no content")
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | bytearray | np.generic | np.ndarray):
        return value
    raise ValueError(f"{type(value).__name__} is not plain data")
