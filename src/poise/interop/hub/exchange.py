"""Fetching and pushing repositories of the hub. A token is the library's own business: nothing here reads, keeps or
says one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poise.core.errors import CheckpointError, MissingExtraError, SettingsError, StorageError
from poise.interop.hub.files import CARD, CONFIG, RECORD, VERDICT, WEIGHTS

_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^@]+)(@(?P<revision>[^@]+))?")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SECONDS = 20.0


def is_address(text: str) -> bool:
    """Whether it names a repository of the hub; a path, in which slashes fall together, does too."""
    return text.startswith("hf:/")


def parts_of(address: str) -> tuple[str, str | None]:
    """(owner/name, revision) of hf://owner/name@revision. Raises: SettingsError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not _NAME.fullmatch(match["name"]):
        raise SettingsError(f"{address!r}: must be hf://owner/name, or hf://owner/name@revision")
    return match["name"], match["revision"]


def check_name(name: str) -> str:
    """Raises: SettingsError unless it is owner/name."""
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise SettingsError(f"{name!r}: must be owner/name of a repository of the hub, or folder:PATH")
    return name


def fetched(address: str) -> Path:
    """The folder in the library's cache with the repository's files; what is there already is not fetched again.

    Raises: MissingExtraError, SettingsError, CheckpointError in one sentence where it is not to be had.
    """
    name, revision = parts_of(address)
    hub = _library()

    def one(file: str, commit: str | None) -> Path:
        path = hub.hf_hub_download(name, file, revision=commit, endpoint=_endpoint(), etag_timeout=_SECONDS)
        return Path(path).parent

    with _told(f"hf://{name}", CheckpointError):
        folder = one(CONFIG, revision)
        commit = folder.name  # all of one state of the repository
        one(WEIGHTS, commit)
        for file in (CARD, RECORD, VERDICT):
            with contextlib.suppress(hub.errors.EntryNotFoundError):
                one(file, commit)
    return folder


def pushed(folder: Path, name: str, private: bool, message: str) -> str:
    """Make the repository if need be and bring the folder's files there in one commit; returns its address.

    Raises: MissingExtraError, StorageError in one sentence.
    """
    hub = _library()
    with _told(f"hf://{name}", StorageError):
        api: Any = hub.HfApi(endpoint=_endpoint())
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    return f"hf://{name}"


def _endpoint() -> str | None:
    """As the environment says now, which the library asks once."""
    return os.environ.get("HF_ENDPOINT")


def _library() -> Any:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    return huggingface_hub


@contextlib.contextmanager
def _told(what: str, kind: type[Exception]) -> Iterator[None]:
    """Raises: `kind` with one sentence for whatever the library raises, without what was sent."""
    import huggingface_hub.errors as known  # pyright: ignore[reportMissingImports]
    from huggingface_hub import constants  # pyright: ignore[reportMissingImports]
    from huggingface_hub.utils import disable_progress_bars  # pyright: ignore[reportMissingImports]

    disable_progress_bars()
    try:
        yield
    except Exception as error:  # of several libraries of HTTP
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, known.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, and it is not in the cache"
        elif isinstance(error, known.GatedRepoError) or status in (401, 403):
            why = "the hub refuses it; log in by `hf auth login`, or ask its owner, or its name is wrong"
        elif isinstance(error, known.EntryNotFoundError) and not isinstance(error, known.LocalEntryNotFoundError):
            why = f"it holds no network of Poise's, which has {CONFIG} and {WEIGHTS}"
        elif status == 404 or isinstance(error, known.RepositoryNotFoundError | known.RevisionNotFoundError):
            why = "there is no such repository or revision, or it is private: log in by `hf auth login`"
        elif status is not None:
            why = f"the hub answered with status {status}"
        else:
            why = f"the hub cannot be reached ({type(error).__name__}), and it is not in the cache"
        raise kind(f"{what} cannot be had: {why}") from None
