"""Checks a bundle that `poise bundle` made and recomputes every number in its results.md, with Python 3.10 and numpy
alone.

python verify.py BUNDLE.zip                   an archive
python verify.py                              the folder that it lies in, where an archive was unpacked
python verify.py BUNDLE.zip --digest HEX      is it the bundle of which this digest was published?

It says what was changed, added, removed or swapped, and ends with status 1; else with 0. It believes nothing but the
predictions: accuracies, standard deviations, intervals and comparisons are computed from them anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

MANIFEST, PRINTED, RESULTS = "manifest.json", "printed.json", "results.md"
FORMAT = 1
DRAWS, SEED = 2000, 0
"""Of the bootstrap over images."""
_Z = NormalDist().inv_cdf(0.975)
_STORED, _DEFLATED = 0, 8
_LOCAL, _CENTRAL, _END = "<IHHHHHIIIHH", "<IHHHHHHIIIHHHHHII", "<IHHHHIIH"
_DATE, _TIME, _UTF8, _MODE = 33, 0, 0x800, 0o100644 << 16
"""1980-01-01, the first day of archives; names in UTF-8; a plain file."""
Members = dict[str, bytes]


class Changed(Exception):
    """What keeps a bundle from being read at all, in a sentence."""


# -- the archive -----------------------------------------------------------------------------------------------------


def archived(members: Members, stored: frozenset[str] = frozenset()) -> bytes:
    """A zip archive that depends on nothing but the members and the compressor. stored: those that stay as they are."""
    parts: list[bytes] = []
    heads: list[bytes] = []
    offset = 0
    for name in sorted(members):
        data, method = members[name], _STORED if name in stored else _DEFLATED
        content_packed = data if method == _STORED else _deflated(data)
        local, head = _heads(name, method, zlib.crc32(data), len(content_packed), len(data), offset)
        parts += [local, content_packed]
        heads.append(head)
        offset += len(local) + len(content_packed)
    directory = b"".join(heads)
    end = struct.pack(_END, 0x06054B50, 0, 0, len(heads), len(heads), len(directory), offset, 0)
    return b"".join([*parts, directory, end])


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _heads(name: str, method: int, crc: int, packed: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """What stands before a member, and its line of the directory."""
    text = name.encode()
    common = (20, _UTF8, method, _TIME, _DATE, crc, packed, size, len(text), 0)
    local = struct.pack(_LOCAL, 0x04034B50, *common) + text
    return local, struct.pack(_CENTRAL, 0x02014B50, 0x314, *common, 0, 0, 0, _MODE, offset) + text


def members_of(archive: bytes) -> Members:
    """The members of an archive that `archived` made. Raises: Changed for any byte that it would have written
    otherwise.
    """
    length, line = struct.calcsize(_END), struct.calcsize(_CENTRAL)
    try:
        mark, _, _, _, count, size, start, _ = struct.unpack(_END, archive[-length:])
        if mark != 0x06054B50 or start + size + length != len(archive):
            raise Changed("the end of the archive is not where it should be: it was cut or something was added")
        members, place, offset = Members(), start, 0
        for _ in range(count):
            entry = struct.unpack(_CENTRAL, archive[place : place + line])
            method, crc, content_packed, whole, letters = entry[4], entry[7], entry[8], entry[9], entry[10]
            name = archive[place + line : place + line + letters].decode()
            local, head = _heads(name, method, crc, content_packed, whole, offset)
            begin = offset + len(local)
            if archive[offset:begin] != local or archive[place : place + len(head)] != head or name in members:
                raise Changed(f"the archive's entry of {name} was changed")
            members[name] = _unpacked(name, archive[begin : begin + content_packed], method, whole)
            if zlib.crc32(members[name]) != crc:
                raise Changed(f"{name} was changed: its checksum is another")
            place, offset = place + len(head), begin + content_packed
        end_record = struct.pack(_END, 0x06054B50, 0, 0, count, count, size, start, 0)
        if (place, offset) != (start + size, start) or archive[-length:] != end_record:
            raise Changed("the archive's directory was changed")
    except (struct.error, UnicodeDecodeError):
        raise Changed("it is no archive that poise bundle made, or its directory was changed") from None
    return members


def _unpacked(name: str, packed: bytes, method: int, size: int) -> bytes:
    if method not in (_STORED, _DEFLATED):
        raise Changed(f"the archive's entry of {name} was changed")
    if method == _STORED:
        return packed
    opener = zlib.decompressobj(-15)
    try:
        data = opener.decompress(packed, size + 1)
    except zlib.error:
        raise Changed(f"{name} was changed: it cannot be unpacked") from None
    if not opener.eof or opener.unused_data or len(data) != size:
        raise Changed(f"{name} was changed: it has another length")
    return data


def read(place: Path) -> Members:
    """The members of an archive, or of the folder that it was unpacked into. Raises: Changed, OSError."""
    if not place.is_dir():
        return members_of(place.read_bytes())
    files = [file for file in sorted(place.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in files}


# -- what was changed ------------------------------------------------------------------------------------------------


def manifest(members: Members, poise: str) -> bytes:
    """The list of all members with their digests, and its own."""
    content = {"format": FORMAT, "poise": poise, "members": {name: _sha(members[name]) for name in sorted(members)}}
    return _text({**content, "sha256": _digest(content)})


def digest_of_bundle(members: Members) -> str:
    """Of the manifest, and so of all that is in it."""
    return _sha(members[MANIFEST])


def _text(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(content: Any) -> str:
    """Of JSON data, whatever the order of its keys."""
    return _sha(json.dumps(content, sort_keys=True).encode())


def _parsed(name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Changed(f"{name} was changed: it is no JSON") from None


def tampering(members: Members) -> list[str]:
    """A sentence for each member that is not what the manifest says. Raises: Changed where the manifest itself isn't
    whole.
    """
    if MANIFEST not in members:
        raise Changed(f"{MANIFEST} is missing")
    listing = _parsed(MANIFEST, members[MANIFEST])
    content = {name: value for name, value in listing.items() if name != "sha256"} if isinstance(listing, dict) else {}
    if not content or listing.get("sha256") != _digest(content) or _text(listing) != members[MANIFEST]:
        raise Changed(f"{MANIFEST} was changed: its sha256 is not the digest of what it says")
    digests: dict[str, str] = content["members"]
    owners = {digest: name for name, digest in digests.items()}
    problems = [f"{name} is missing" for name in digests if name not in members]
    for name in sorted(set(members) - {MANIFEST}):
        digest = _sha(members[name])
        if name not in digests:
            problems.append(f"{name} was added: {MANIFEST} does not know it")
        elif digest != digests[name]:
            owner = owners.get(digest)
            problems.append(f"{name} holds what {owner} should hold" if owner else f"{name} was changed")
    return problems


def disagreements(members: Members) -> list[str]:
    """A sentence for each record that does not fit its own digest, its run or its weights: what a forged manifest
    leaves.
    """
    problems = []
    for name in sorted(members):
        folder, _, file = name.rpartition("/records/")
        if not folder or not file.endswith(".json"):
            continue
        record = _parsed(name, members[name])
        problems += _unsealed(name, record, "sha256")
        about = _parsed(f"{folder}/run.json", members.get(f"{folder}/run.json", b"{}"))
        for key in ("group", "seed"):
            if key in about and key in record and "labels" in record and record[key] != about[key]:
                problems.append(f"{name} is of {key} {record[key]!r}, its run of {about[key]!r}")
    for name in sorted(name for name in members if name.endswith("/run.json")):
        text, about = members.get(name.replace("run.json", "experiment.json"), b""), _parsed(name, members[name])
        digests = {_sha(text), _sha(json.dumps(_parsed(name, text or b"{}"), indent=1).encode())}
        problems += _unsealed(name, about, "sha256")
        if "settings_sha256" in about and about["settings_sha256"] not in digests:
            problems.append(f"{name.replace('run.json', 'experiment.json')} was changed since the run was started")
    return problems + _weights(members)


def _unsealed(name: str, document: dict[str, Any], key: str) -> list[str]:
    """Whether a document that has its own digest is what it was."""
    content = {key_of_part: value for key_of_part, value in document.items() if key_of_part != key}
    right = key not in document or document[key] == _digest(content)
    return [] if right else [f"{name}: its {key} is not the digest of what it says"]


def _weights(members: Members) -> list[str]:
    """Of weights: whether they are those whose digest stands beside them, and those that were evaluated."""
    problems = []
    for name in sorted(name for name in members if name.endswith(".safetensors")):
        facts = _parsed(name, members.get(name.replace(".safetensors", ".json"), b"{}"))
        if facts.get("sha256") != _sha(members[name]):
            problems.append(f"{name}: its SHA-256 is not the one beside it")
    for link in _parsed(PRINTED, members.get(PRINTED, b"{}")).get("weights", []):
        record = _parsed(link["record"], members.get(link["record"], b"{}"))
        facts = _parsed(link["facts"], members.get(link["facts"], b"{}"))
        if facts.get("sha256") != link["sha256"] or record.get("model_digest") != link["model_digest"]:
            problems.append(f"{link['record']} is not of the weights that {link['facts']} describes")
        data = members.get(link["facts"].replace(".json", ".safetensors"))
        if data is not None and link["computed"] and digest_of_tensors(data) != link["model_digest"]:
            problems.append(f"{link['record']} is not of the weights beside it")
    return problems


def digest_of_tensors(data: bytes) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors of a safetensors file, as records have it."""
    (length,) = struct.unpack("<Q", data[:8])
    heads, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    digest = hashlib.sha256()
    for name in sorted(name for name in heads if name != "__metadata__"):
        head = heads[name]
        digest.update(f"{name}{tuple(head['shape'])}{_TYPES.get(head['dtype'], head['dtype'])}".encode())
        digest.update(body[slice(*head["data_offsets"])])
    return digest.hexdigest()


_TYPES = {
    **{f"F{bits}": f"torch.float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"torch.int{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "torch.bfloat16",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}

# -- what is printed -------------------------------------------------------------------------------------------------


class Records:
    """The predictions of a bundle."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.parsed: dict[str, Any] = {}

    def record(self, name: str) -> Any:
        if name not in self.parsed:
            self.parsed[name] = _parsed(name, self.members.get(name, b""))
        return self.parsed[name]

    def right(self, source: list[Any]) -> np.ndarray:
        """Whether each image [N] is classified rightly; source: a record, and the place of an attack in it, or None for
        natural images.
        """
        name, place = source
        record = self.record(name)
        predictions = record["natural"] if place is None else record["attacks"][place]["predicted"]
        return np.array(predictions) == np.array(record["labels"])

    def under(self, sources: list[Any], rule: str) -> np.ndarray:
        """The same over several sources: right under all of them, or under the one that leaves least right."""
        columns = [self.right(source) for source in sources]
        if rule == "lowest":
            return min(columns, key=lambda column: int(column.sum()))
        return np.logical_and.reduce(columns)

    def accuracy(self, sources: list[Any], rule: str) -> float:
        if rule == "corruptions":
            rows = self.record(sources[0][0])["notes"]["corruptions"]["accuracies"].values()
            every = [value for row in rows for value in row]
            return sum(every) / len(every)
        return float(self.under(sources, rule).mean())

    def attacks(self, sources: list[Any]) -> set[tuple[Any, ...]]:
        """What the sources are attacked by: names and threats."""
        attack_records = [self.record(name)["attacks"][place] for name, place in sources if place is not None]
        threats = [attack["settings"].get("threat") or {} for attack in attack_records]
        return {
            (attack["name"], threat.get("type"), f"{threat.get('epsilon', 0):.12g}")
            for attack, threat in zip(attack_records, threats, strict=True)
        }


def recomputed(cell: dict[str, Any], records: Records) -> dict[str, Any]:
    """A cell's text and the ends of its 95 % interval, from the predictions."""
    values = [records.accuracy(sources, cell["rule"]) for sources in cell["runs"]]
    mean, n = float(np.mean(values)), len(values)
    text, of = f"{100 * mean:.2f}", cell["of"]
    if n == 1:
        low, high = wilson(mean, len(records.record(cell["runs"][0][0][0])["labels"]))
        text += f" ({n})" if of > 1 else ""
    else:
        std = float(np.std(values, ddof=1))
        half = t_quantile(0.975, n - 1) * std / math.sqrt(n)
        low, high = mean - half, mean + half
        text += f" ± {100 * std:.2f} (std, {n})"
    return {"text": text, "low": f"{100 * low:.2f}", "high": f"{100 * high:.2f}"}


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share of n (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_quantile(share: float, freedom: float) -> float:
    """The point below which Student's t lies with probability `share` of at least one half."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < share and high < 1e12:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: float) -> float:
    return 1 - _beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = 1 + term / c, 1 / (1 + term * d)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def compared(pair: dict[str, Any], records: Records) -> dict[str, float]:
    """Accuracy of a minus that of b with its 95 % interval, paired by image, and p: a bootstrap over images, Welch's t
    over runs.
    """
    right = [np.array([records.under(sources, pair["rule"]) for sources in pair[side]], float) for side in ("a", "b")]
    a, b = right
    gaps = a.mean(0) - b.mean(0)
    difference = float(gaps.mean())
    sign = -1 if gaps[np.flatnonzero(gaps)[:1]].sum() < 0 else 1
    values, counts = np.unique(sign * gaps, return_counts=True)
    resampled = np.random.default_rng(SEED).multinomial(len(gaps), counts / len(gaps), size=DRAWS) @ values / len(gaps)
    low, high = sorted(sign * np.percentile(resampled, [2.5, 97.5]))
    deviation, freedom = _welch([a.mean(1), b.mean(1)])
    runs = t_quantile(0.975, freedom) * deviation if deviation else 0.0
    towards = difference - low if difference > 0 else high - difference
    p = _level(abs(difference), towards / _Z, deviation, freedom)
    p = max(p, min(1.0, 2.0 ** (1 - np.count_nonzero(gaps))))
    below, above = math.hypot(difference - low, runs), math.hypot(high - difference, runs)
    return {"difference": difference, "low": difference - below, "high": difference + above, "p": p}


def _welch(sides: list[np.ndarray]) -> tuple[float, float]:
    """Standard error of a difference of means, and its degrees of freedom; a side of one run has no variance."""
    parts = [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    total = sum(variance for variance, _ in parts)
    return (math.sqrt(total), total**2 / sum(v**2 / n for v, n in parts)) if total else (0.0, math.inf)


def _level(difference: float, images: float, runs: float, freedom: float) -> float:
    """The level at which the interval just reaches zero."""
    if not difference:
        return 1.0
    least, most = 0.0, 1.0
    for _ in range(60):
        p = (least + most) / 2
        share = min(1 - p / 2, 1 - 1e-16)
        margin = math.hypot(NormalDist().inv_cdf(share) * images, t_quantile(share, freedom) * runs if runs else 0.0)
        least, most = (p, most) if margin > difference else (least, p)
    return most


def holm(ps: list[float]) -> list[float]:
    """Corrected by Holm's step-down method."""
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, ps[place] * (len(ps) - rank)))
        adjusted[place] = least
    return adjusted


def pair_text(numbers: dict[str, float], p: float) -> str:
    ends = f"({100 * numbers['low']:+.2f} to {100 * numbers['high']:+.2f})"
    return f"{100 * numbers['difference']:+.2f} {ends}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def rendered(printed: dict[str, Any]) -> str:
    """results.md of what is printed."""
    heads = ["method", "checkpoint", "data", *printed["columns"]]
    lines = ["# Results", "", _row(heads), _row(["---"] * len(heads))]
    for row in printed["rows"]:
        lines.append(_row([row["label"], row["checkpoint"], row["data"], *(cell["text"] for cell in row["cells"])]))
    lines += ["", "Accuracy in percent.", *printed["notes"], ""]
    if printed["comparisons"]:
        lines += ["## Differences", "", _row(["a", "b", "column", "a minus b, 95 % interval, p by Holm"])]
        lines.append(_row(["---"] * 4))
        lines += [
            _row([pair["names"][0], pair["names"][1], pair["column"], pair["text"]]) for pair in printed["comparisons"]
        ]
    return "\n".join(lines) + "\n"


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"


def recomputing(members: Members) -> tuple[list[str], int]:
    """A sentence for each printed number that the predictions do not give, and how many were recomputed."""
    sheet, records = _parsed(PRINTED, members.get(PRINTED, b"")), Records(members)
    problems, count = [], 0
    attacks: dict[int, set[tuple[Any, ...]]] = {}
    for row in sheet["rows"]:
        for place, (column, cell) in enumerate(zip(sheet["columns"], row["cells"], strict=True)):
            where = f"{row['label']}, {row['checkpoint']}, {column}"
            if "runs" not in cell:
                is_measured = row["kind"] == "measured" and cell["text"] != "-"
                problems += [f"{where}: printed {cell['text']}, of no predictions"] if is_measured else []
                continue
            now = recomputed(cell, records)
            wrong = [f"{key} {cell[key]}, recomputed {now[key]}" for key in now if now[key] != cell[key]]
            problems += [f"{where}: printed {text}" for text in wrong]
            count += len(now)
            used = set().union(*(records.attacks(sources) for sources in cell["runs"]))
            if cell["rule"] == "all" and len(cell["runs"][0]) == 1 and attacks.setdefault(place, used) != used:
                problems.append(f"{where}: its attack is not that of the rows above")
    numbers = [compared(pair, records) for pair in sheet["comparisons"]]
    adjusted = holm([numbers_of_pair["p"] for numbers_of_pair in numbers])
    for pair, numbers_of_pair, p in zip(sheet["comparisons"], numbers, adjusted, strict=True):
        text = pair_text(numbers_of_pair, p)
        count += 1
        if text != pair["text"]:
            problems.append(
                f"{' minus '.join(pair['names'])}, {pair['column']}: printed {pair['text']}, recomputed {text}"
            )
    if rendered(sheet).encode() != members.get(RESULTS):
        problems.append(f"{RESULTS} does not print what {PRINTED} says")
    return problems, count


def check(place: Path, digest: str | None = None) -> tuple[list[str], list[str]]:
    """What is wrong with a bundle, and what was seen to be right, in sentences."""
    try:
        members = read(place)
        wrong = tampering(members)
        bundle_digest = digest_of_bundle(members)
        right = [f"{len(members)} members; digest {bundle_digest}"]
        if digest is not None and digest.lower() != bundle_digest:
            wrong.append(
                f"the digest is {bundle_digest}, not {digest}: it is another bundle than the one that was published"
            )
        if wrong:
            return wrong, right
        wrong = disagreements(members)
        sentences, count = recomputing(members)
    except Changed as error:
        return [str(error)], []
    except OSError as error:
        return [f"{place} cannot be read: {error.strerror or error}"], []
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return [f"{PRINTED} or a record is not what poise bundle writes: {error!r}"], []
    return wrong + sentences, [*right, f"{count} printed numbers recomputed from the predictions"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a bundle and recompute every number that it prints.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--digest", help="as it was published")
    options = parser.parse_args(arguments)
    wrong, right = check(options.bundle, options.digest)
    for sentence in right:
        print(sentence)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("This bundle was tampered with, or is damaged." if wrong else "Everything is as it was bundled.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
