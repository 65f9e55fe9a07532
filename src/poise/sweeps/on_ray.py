"""Tasks on Ray: which worker and which machine a task gets is Ray's business, and so is room for gangs.

Nothing of a run lies in Ray. A try whose worker or node dies is begun again wherever there is room, and goes on from
the folder, which therefore lies on storage that all nodes share.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from poise.core.errors import Interrupted, MissingExtraError, RunError
from poise.core.files import write_text
from poise.core.progress import Progress
from poise.engine.signals import stop_requested
from poise.sweeps.engines import TRIES, Engine, Tally, Told
from poise.sweeps.ledger import Outcome
from poise.sweeps.local import free_port
from poise.sweeps.tasks import Seat, Task, of_data, perform, to_data

_POLL = 0.5
_MOST_GANGS = 64
"""Gangs that wait for room or work at a time."""


def imported() -> Any:
    """Ray. Raises: MissingExtraError."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    return ray


def _alone(task: dict[str, Any], attempt: int) -> dict[str, Any]:
    """A task of one rank, in a worker."""
    return _done(task, Seat(_node(), attempt))


def _done(task: dict[str, Any], seat: Seat) -> dict[str, Any]:
    """How the task ended, in plain data."""
    return dataclasses.asdict(perform(of_data(task), seat))


def _node() -> str:
    """The name of the node that this worker is on, in words that its users know it by: its address, or its id's
    beginning where several share that.
    """
    ray = imported()
    node_here = ray.get_runtime_context().get_node_id()
    address = ray.util.get_node_ip_address()
    return f"{address} ({node_here[:8]})"


def _there(path: str) -> bool:
    """Whether this node sees the file."""
    return Path(path).exists()


class Rank:
    """An actor: the process of one rank of a gang, which lives as long as one try."""

    def meeting(self) -> tuple[str, int, str]:
        """(address, a free port, node's id) of where this rank is."""
        ray = imported()
        return ray.util.get_node_ip_address(), free_port(), ray.get_runtime_context().get_node_id()

    def perform(self, task: dict[str, Any], seat: dict[str, Any]) -> dict[str, Any]:
        return _done(task, Seat(_node(), **seat))


class OnRay(Engine):
    """On the cluster at `address`; without one on that which RAY_ADDRESS or this machine has, else on one begun
    here.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address, self._own = address, list[bool]()
        self.tries = TRIES

    def __enter__(self) -> Self:
        """Raises: RunError where the cluster cannot be reached."""
        ray = imported()
        self._own.append(not ray.is_initialized())  # of nested ones the outermost connects
        if self._own[-1]:
            how = {"log_to_driver": False, "logging_level": "warning", "include_dashboard": False}
            try:
                ray.init(address=self.address, **how)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where, why = self.address or "this machine", str(error).partition("\n")[0]
                raise RunError(f"there is no Ray cluster at {where}: {why}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._own.pop():
            imported().shutdown()

    def require(self) -> None:
        imported()

    def check(self, folder: Path, progress: Progress) -> None:
        """Raises: RunError where there is no such cluster, or a node of it does not see the folder."""
        ray = imported()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        token = folder.resolve() / f".seen-{secrets.token_hex(8)}"
        write_text(token, "")
        try:
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            look = ray.remote(_there)
            probes = [
                look.options(
                    num_cpus=0, max_retries=0, scheduling_strategy=strategy(node["NodeID"], soft=False)
                ).remote(str(token))
                for node in nodes
            ]
            answers = [_answer(ray, probe, node["NodeID"]) for probe, node in zip(probes, nodes, strict=True)]
        finally:
            token.unlink(missing_ok=True)
        blind = [node["NodeManagerAddress"] for node, there in zip(nodes, answers, strict=True) if not there]
        if blind:
            raise RunError(
                f"{folder} is not on storage that all {len(nodes)} nodes share: {', '.join(blind)} does not see it;"
                " give --out a folder that every node has under the same path, such as one of NFS"
            )
        progress.say(f"{folder} is seen by all nodes of the cluster ({len(nodes)}), which have to share it")

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        tally, ray = Tally(tasks, told, self.tries), imported()
        with stop_requested() as stop:
            _check_room(ray, tasks)
            alone, waiting = ray.remote(_alone), dict[Any, tuple[int, int]]()
            with concurrent.futures.ThreadPoolExecutor(_MOST_GANGS) as threads:
                gangs: dict[concurrent.futures.Future[Any], tuple[int, int]] = {}
                while (tally.waiting and not stop) or waiting or gangs:
                    while tally.waiting and not stop:
                        place, attempt = tally.waiting.popleft()
                        task = tasks[place]
                        if task.needs.ranks > 1:
                            gangs[threads.submit(_gang, ray, task, attempt, stop)] = place, attempt
                            continue
                        how = {"num_cpus": task.needs.cpus, "num_gpus": task.needs.gpus, "max_retries": 0}
                        waiting[alone.options(name=task.name, **how).remote(to_data(task), attempt)] = place, attempt
                    if waiting:
                        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL)
                        for reference in ready:
                            _take(ray, reference, *waiting.pop(reference), tally)
                    elif gangs:
                        concurrent.futures.wait(gangs, _POLL, concurrent.futures.FIRST_COMPLETED)
                    for gang in [gang for gang in gangs if gang.done()]:
                        place, attempt = gangs.pop(gang)
                        outcomes, why = gang.result()
                        if why:
                            tally.lost(place, attempt, why)
                        else:
                            tally.gang_ended(place, attempt, outcomes)
                    if stop:
                        for reference in waiting:
                            ray.cancel(reference)
                        _wait_for(ray, waiting, tally)
        if stop or any(outcome.state == "interrupted" for outcome in tally.outcomes.values()):
            raise Interrupted("stopped; what was done is saved")
        return tally.all


def _answer(ray: Any, asked: Any, node: str) -> bool:
    """Whether a node sees the file; one that has died meanwhile need not. Raises: RunError where it is silent."""
    try:
        return bool(ray.get(asked, timeout=120))
    except ray.exceptions.RayError as error:
        if not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node):
            return True
        raise RunError(f"a node of the cluster does not answer: {_why(error)}") from None


def _take(ray: Any, one: Any, place: int, attempt: int, tally: Tally) -> None:
    """Take down how a task of one rank ended."""
    try:
        tally.ended(place, Outcome(**ray.get(one)))
    except ray.exceptions.TaskCancelledError:
        tally.ended(place, Outcome(tally.tasks[place].name, "interrupted", "not begun", attempt=attempt))
    except ray.exceptions.RayTaskError as error:  # before Poise was there
        reason = f"the worker cannot do it: {_why(error)}"
        tally.ended(place, Outcome(tally.tasks[place].name, "failed", reason, type(error).__name__, attempt=attempt))
    except ray.exceptions.RayError as error:
        tally.lost(place, attempt, _why(error))


def _why(error: Exception) -> str:
    """What Ray says of a dead worker or node, in a clause; of an error in a worker its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    line = lines[-1] if "Traceback" in str(error) or "ray::" in lines[0] else lines[0]
    return f"{type(error).__name__}: {line[:300]}"


def _wait_for(ray: Any, waiting: dict[Any, tuple[int, int]], tally: Tally) -> None:
    """Let what was asked to stop save its state."""
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        for reference in ready:
            _take(ray, reference, *waiting.pop(reference), tally)


def _check_room(ray: Any, tasks: Sequence[Task]) -> None:
    """Raises: RunError for what no node of the cluster has, for which a task would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for needs in dict.fromkeys(task.needs for task in tasks):
        for option, word, amount in (("cpus", "CPU", needs.cpus), ("gpus", "GPU", needs.gpus)):
            most = max((node.get(word, 0.0) for node in nodes), default=0.0)
            if amount > most:
                raise RunError(f"--{option} {amount:g}: no node of the cluster has as many, the largest has {most:g}")
            # where a share fits: ranks of one node each take a whole one
            room = sum(int(node.get(word, 0.0) / amount) for node in nodes) if amount else needs.ranks
            if room < needs.ranks:
                raise RunError(
                    f"--ranks {needs.ranks} with --{option} {amount:g}: the cluster has room for {room} at a time"
                )


def _gang(ray: Any, task: Task, attempt: int, stop: Sequence[int]) -> tuple[list[Outcome], str]:
    """One try of a task of several ranks: all of them at once, spread over nodes. Returns how each ended, or why the
    gang is gone.

    Where one dies all are ended: survivors that went on alone would be another run.
    """
    from ray.util.placement_group import placement_group, remove_placement_group  # pyright: ignore[reportMissingImports]
    from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
        PlacementGroupSchedulingStrategy,
    )

    needs = task.needs
    bundle = {"CPU": needs.cpus} | ({"GPU": needs.gpus} if needs.gpus else {})
    room, ranks = placement_group([bundle] * needs.ranks, strategy="SPREAD"), list[Any]()
    actor = ray.remote(Rank)
    try:
        while not room.wait(timeout_seconds=_POLL):
            if stop:
                return [Outcome(task.name, "interrupted", "not begun", attempt=attempt)], ""
        ranks = [
            actor.options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=number),
            ).remote()
            for number in range(needs.ranks)
        ]
        places = ray.get([rank.meeting.remote() for rank in ranks])
        address, port, _ = places[0]
        # where it has GPUs Ray shows each rank its own only, which is then the first of all it sees
        seats = _seats(list(range(needs.ranks)) if needs.gpus else [place[2] for place in places])
        members = {
            rank.perform.remote(to_data(task), {"attempt": attempt, "address": address, "port": port, **seat}): number
            for number, (rank, seat) in enumerate(zip(ranks, seats, strict=True))
        }
        return _together(ray, members, ranks, stop), ""
    except ray.exceptions.RayError as error:
        return [], _why(error)
    finally:
        for rank in ranks:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(rank)
        remove_placement_group(room)


def _together(ray: Any, asked: dict[Any, int], ranks: Sequence[Any], stop: Sequence[int]) -> list[Outcome]:
    """How each rank ended. Raises: RayError as soon as one is gone."""
    outcomes: dict[int, Outcome] = {}
    waiting, stop_sent = dict(asked), False
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL)
        for reference in ready:
            number = waiting.pop(reference)
            outcomes[number] = Outcome(**ray.get(reference))
        if any(outcome.cause == "RankError" for outcome in outcomes.values()):
            # the others hear of it too, but one that hangs would keep them for a day
            ray.wait(list(waiting), num_returns=max(1, len(waiting)), timeout=10) if waiting else None
            dead = [
                reference
                for reference in waiting
                if reference not in ray.wait(list(waiting), num_returns=1, timeout=0)[0]
            ]
            for reference in dead:
                outcomes[waiting[reference]] = Outcome("", "failed", "did not answer", "RankError")
            for reference in [reference for reference in waiting if reference not in dead]:
                outcomes[waiting[reference]] = Outcome(**ray.get(reference))
            waiting = {}
        if stop and not stop_sent:
            stop_sent = True
            for reference in waiting:
                ray.cancel(reference)
    return [outcomes[number] for number in range(len(ranks))]


def _seats(nodes: Sequence[str | int]) -> list[dict[str, int]]:
    """Each rank's number and that among those of its node; nodes: of each rank, by whatever tells them apart."""
    return [
        {
            "rank": rank,
            "size": len(nodes),
            "local_rank": list(nodes[:rank]).count(node),
            "local_size": list(nodes).count(node),
        }
        for rank, node in enumerate(nodes)
    ]
