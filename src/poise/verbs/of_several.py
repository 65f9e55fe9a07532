"""Several subjects judged as one ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from poise.core.errors import DataError, SettingsError
from poise.data import Data, Split
from poise.evaluation import NamedProtocol, Protocol
from poise.evaluation.digests import digest_of_images
from poise.models import EnsembleModule
from poise.models.ensemble import Output
from poise.threats import Threat
from poise.verbs.images import ARRAYS, Images
from poise.verbs.of_run import OfRun
from poise.verbs.subject import Subject


class OfSeveral(Subject):
    """Networks of any architectures as members of one ensemble; output: "mean-probabilities", "mean-logits" or "vote".

    Raises: SettingsError for fewer than two members, one that is named twice, or another output.
    """

    def __init__(
        self,
        members: Sequence[Subject],
        output: str = "vote",
        data: Images | None = None,
        device: str = "auto",
        data_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, device, data_dir)
        self.output = output.replace("_", "-")  # as the command spells it
        if self._form not in get_args(Output):
            raise SettingsError(
                f"output = {output!r}: must be one of {', '.join(form.replace('_', '-') for form in get_args(Output))}"
            )
        if len(members) < 2:
            raise SettingsError(
                f"--ensemble {self.output}: an ensemble has at least two members; name at least two run folders"
            )
        names = [
            (member.folder.resolve() if member.folder is not None else id(member), member.checkpoint)
            for member in members
        ]
        if twice := next((member for member, name in zip(members, names, strict=True) if names.count(name) > 1), None):
            raise SettingsError(
                f"--ensemble {self.output}: {twice.spelled} is named twice; every member is to be named once"
            )
        self.members = tuple(members)
        self.own_code = any(member.own_code for member in members)
        checkpoints = dict.fromkeys(member.checkpoint for member in members)
        self.checkpoint = next(iter(checkpoints)) if len(checkpoints) == 1 else "several"

    @property
    def _form(self) -> Output:
        return cast(Output, self.output.replace("-", "_"))

    @property
    def title(self) -> str:
        return self.named

    @property
    def named(self) -> str:
        return f"{self.output} of {', '.join(self._names)}"

    @property
    def _names(self) -> list[str]:
        return [member.run.name if isinstance(member, OfRun) else member.named for member in self.members]

    @property
    def spelled(self) -> str:
        names = [member.spelled for member in self.members]
        return f"--ensemble {self.output} {' '.join(names)}" if all(names) else ""

    def build(self) -> nn.Module:
        network = EnsembleModule([member.build() for member in self.members], self._form)
        network.eval()
        return network

    def own_data(self) -> Data:
        """The data of all members. Raises: DataError where their names, classes or test images differ; arrays have no
        names.
        """
        first = self.members[0]
        data = first.read_data()
        for member in self.members[1:]:
            if (
                isinstance(member, OfRun)
                and isinstance(first, OfRun)
                and member.experiment.data == first.experiment.data
            ):
                member.run.check_unchanged(data=data)
                continue
            data_other = member.read_data()
            for aspect, ours, theirs in _compared(data, data_other):
                if ours != theirs:
                    name_here, two = member.spelled or member.title, first.spelled or first.title
                    raise DataError(
                        f"{name_here} and {two} have different {aspect}; an ensemble's members must have the same"
                    )
            data = data_other if data.name == ARRAYS else data
        return data

    def fitting(self, data: Data) -> Data:
        for member in self.members:
            data = member.fitting(data)
        return data

    def about(self) -> dict[str, Any]:
        notes = {"ensemble": {"output": self.output, "members": [member.member() for member in self.members]}}
        groups = " ".join(str(member.member().get("group", member.named)) for member in self.members)
        about = {"checkpoint": self.checkpoint, "group": f"{self.output} of {groups}"}
        return {**about, "notes": {**notes, "data": list(self.data.notes)}}

    @property
    def protocol(self) -> Protocol | None:
        """Raises: SettingsError where the members have different ones."""
        return self._same(
            {name: member.protocol for name, member in zip(self._names, self.members, strict=True) if member.protocol}
        )

    @property
    def threat(self) -> Threat | None:
        """That of the first member that has one."""
        return next((member.threat for member in self.members if member.threat is not None), None)

    def within(self, chosen: NamedProtocol, kind: str | None, epsilon: Any, step_size: Any) -> Protocol:
        """Raises: SettingsError where the members, each within its own threat, would have different ones."""
        members = [
            (name, member) for name, member in zip(self._names, self.members, strict=True) if member.threat is not None
        ]
        protocols_asked = {name: member.within(chosen, kind, epsilon, step_size) for name, member in members}
        return self._same(protocols_asked) or super().within(chosen, kind, epsilon, step_size)

    def _same(self, protocols: Mapping[str, Protocol]) -> Protocol | None:
        """What all of them are; None of none."""
        first = next(iter(protocols.values()), None)
        if any(protocol != first for protocol in protocols.values()):
            names_text = ", ".join(f"{name} by {protocol.name}" for name, protocol in protocols.items())
            raise SettingsError(
                f"the runs are not evaluated by the same protocol ({names_text}); name one with --protocol, or its"
                " --epsilon too"
            )
        return first


def _compared(data: Data, other: Data) -> Iterator[tuple[str, object, object]]:
    """What members must have alike: (its name, in one, in the other). Arrays have neither a name nor numbers in a data
    set.
    """
    if ARRAYS in (data.name, other.name):
        ours, theirs = (digest_of_images(Split.of(part.images, part.labels)) for part in (data.test, other.test))
        yield "test images", ours, theirs
        return
    yield "data set", data.name, other.name
    yield "classes", data.classes, other.classes
    yield "test images", digest_of_images(data.test), digest_of_images(other.test)
