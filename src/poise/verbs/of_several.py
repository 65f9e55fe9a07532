"""Several subjects judged as one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from poise.core.errors import DataError, SettingsError
from poise.data import Data
from poise.evaluation import NamedProtocol, Protocol
from poise.evaluation.digests import digest_of_images
from poise.models import EnsembleModule
from poise.models.ensemble import Output
from poise.threats import Threat
from poise.verbs.images import Images
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
            raise SettingsError(f"output = {output!r}: must be one of {', '.join(form.replace('_', '-') for form in get_args(Output))}")
        if len(members) < 2:
            raise SettingsError(f"--ensemble {self.output}: an ensemble has at least two members; name at least two run folders")
        names = [member.folder.resolve() if member.folder is not None else id(member) for member in members]
        if twice := next((member for member, name in zip(members, names, strict=True) if names.count(name) > 1), None):
            raise SettingsError(f"--ensemble {self.output}: {twice.spelled} is named twice; every member is to be named once")
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
        spelled = [member.spelled for member in self.members]
        return f"--ensemble {self.output} {' '.join(spelled)}" if all(spelled) else ""

    def build(self) -> nn.Module:
        return EnsembleModule([member.build() for member in self.members], self._form).eval()

    def own_data(self) -> Data:
        """The data of all members. Raises: DataError where their names, classes or test images differ."""
        first = self.members[0]
        data = first.own_data()
        for member in self.members[1:]:
            if isinstance(member, OfRun) and isinstance(first, OfRun) and member.experiment.data == first.experiment.data:
                member.run.check_unchanged(data=data)
                continue
            other = member.own_data()
            for what, ours, theirs in (
                ("data set", data.name, other.name),
                ("classes", data.classes, other.classes),
                ("test images", digest_of_images(data.test), digest_of_images(other.test)),
            ):
                if ours != theirs:
                    raise DataError(f"{member.spelled} and {first.spelled} have different {what}; an ensemble's members must have the same")
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
        return self._same([member.protocol for member in self.members])

    @property
    def threat(self) -> Threat | None:
        """That of the first member."""
        return self.members[0].threat

    def within(self, chosen: NamedProtocol, kind: str | None, epsilon: Any, step_size: Any) -> Protocol:
        protocol = self._same([member.within(chosen, kind, epsilon, step_size) for member in self.members])
        assert protocol is not None
        return protocol

    def _same(self, protocols: Sequence[Protocol | None]) -> Protocol | None:
        if any(protocol != protocols[0] for protocol in protocols):
            listed = ", ".join(
                f"{name} by {protocol.name if protocol is not None else 'standard'}"
                for name, protocol in zip(self._names, protocols, strict=True)
            )
            raise SettingsError(
                f"the runs are not evaluated by the same protocol ({listed}); name one with --protocol, or its --epsilon too"
            )
        return protocols[0]
