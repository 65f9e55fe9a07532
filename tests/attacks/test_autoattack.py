"""AutoAttack: survivors, verdicts, independence of batch and refill, resume after SIGKILL, few classes, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks.autoattack import MISCLASSIFIED, PUBLISHED, ROBUST, AutoAttack, Result, Status
from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.lanes import Lanes, find_batch_size, fitting, multiply_adds, on_cpu
from poise.attacks.autoattack.search import Examples, Search, State
from poise.attacks.autoattack.square import Square
from poise.core.errors import InputError, Interrupted, RunError, SettingsError
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.models import SlimCNN, SmallCNN
from poise.threats import L2, Linf, Threat

LINF, L_2 = Linf(epsilon=0.03), L2(epsilon=0.6)


def small(threat: Threat = LINF) -> AutoAttack:
    """All four kinds of components with small budgets."""
    parts = (
        APGD(steps=8),
        APGD(loss="targeted_dlr", steps=6, targets=3),
        FAB(targeted=True, steps=4, targets=2),
        Square(queries=40),
    )
    return AutoAttack(threat=threat, version="custom", attacks=parts)


def conv_net(classes: int = 6, seed: int = 0) -> nn.Sequential:
    """A small convolutional network with weights large enough that images have well separated logits."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, classes),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        net(torch.rand(64, 3, 10, 10, generator=generator))  # fills the running statistics
    return net


def labelled(net: nn.Module, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images labelled by the network, one in eight wrongly."""
    x = torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))
    net.eval()
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    wrong = torch.arange(count) % 8 == 7
    return x, torch.where(wrong, (y + 1) % logits.shape[1], y)


def same(a: Result, b: Result) -> bool:
    """Everything but the seconds."""
    tensors = all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("x_adv", "y", "predicted", "natural", "broken_by")
    )
    return tensors and (a.attacks, a.survivors, a.shapes, a.steps, a.notes) == (
        b.attacks,
        b.survivors,
        b.shapes,
        b.steps,
        b.notes,
    )


@pytest.mark.parametrize("threat", [LINF, L_2], ids=["linf", "l2"])
def test_flags_survivors_and_images_of_a_run_agree(threat: Threat) -> None:
    net = conv_net()
    x, y = labelled(net, 70)
    result = small(threat).run(net, x, y, batch_size=16)
    with torch.no_grad():
        predicted = torch.cat([net(part) for part in result.x_adv.split(16)]).argmax(1)
    assert torch.equal(predicted, result.predicted)
    assert torch.equal(result.robust, result.broken_by == ROBUST)
    assert torch.equal(result.natural != y, result.broken_by == MISCLASSIFIED)
    assert torch.equal(result.x_adv[result.broken_by < 0], x[result.broken_by < 0])
    assert (threat.norm(result.x_adv - x) <= threat.epsilon + 1e-6).all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    counted = [int((result.natural == y).sum())]
    for place, survivors in enumerate(result.survivors):
        counted.append(counted[-1] - int((result.broken_by == place).sum()))
        assert survivors == counted[-1]
    assert 0 < result.survivors[-1] < result.survivors[0] <= counted[0]
    assert result.robust_accuracy == result.survivors[-1] / 70
    assert result.natural_accuracy == counted[0] / 70


def test_an_example_keeps_its_adversarial_image_whatever_its_mates_the_order_and_the_refill() -> None:
    net = conv_net()
    x, y = labelled(net, 60)
    attack = small()
    whole = attack.run(net, x, y, batch_size=8, fixed_shape=True)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = attack.run(net, x[order], y[order], ids=order, batch_size=8, fixed_shape=True)
    assert torch.equal(shuffled.x_adv, whole.x_adv[order])
    assert torch.equal(shuffled.broken_by, whole.broken_by[order])
    for part in (slice(0, 3), slice(20, 45)):
        rows = torch.arange(60)[part]
        alone = attack.run(net, x[part], y[part], ids=rows, batch_size=8, fixed_shape=True)
        assert torch.equal(alone.x_adv, whole.x_adv[part])


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets lanes run as on an accelerator from now on: eight steps a round, and flags of the round before."""
    return lambda: monkeypatch.setattr("poise.attacks.autoattack.lanes.queued", lambda device: True)


KINDS = {
    "APGD": APGD(steps=12),
    "APGD-T": APGD(loss="targeted_dlr", steps=9, targets=2),
    "FAB": FAB(steps=9),
    "FAB-T": FAB(targeted=True, steps=9, targets=2),
    "FABx2": FAB(steps=9, restarts=2),
    "Square": Square(queries=40),
}


@pytest.mark.parametrize("threat", [Linf(epsilon=0.3), L2(epsilon=4.0)], ids=["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_queued_rounds_and_late_flags_change_no_image_whatever_its_mates(
    queued: Callable[[], None], kind: str, threat: Threat
) -> None:
    """On an accelerator a fooled example stays for a number of steps that its batch mates decide."""
    net = conv_net()
    x, y = labelled(net, 40)
    attack = AutoAttack(threat=threat, version="custom", attacks=(KINDS[kind],))
    how: dict[str, Any] = {"batch_size": 8, "fixed_shape": True}
    at_once = attack.run(net, x, y, **how)
    queued()
    whole = attack.run(net, x, y, **how)
    assert whole.steps[0][1] > at_once.steps[0][1], "examples stayed longer than they had to"
    assert int((whole.broken_by == 0).sum()) > 5, "lanes were refilled early"
    assert torch.equal(whole.x_adv, at_once.x_adv)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = attack.run(net, x[order], y[order], ids=order, **how)
    assert torch.equal(shuffled.x_adv, whole.x_adv[order])
    for part in (slice(0, 3), slice(15, 30)):
        alone = attack.run(net, x[part], y[part], ids=torch.arange(40)[part], **how)
        assert torch.equal(alone.x_adv, whole.x_adv[part])


def test_another_padded_shape_gives_the_same_verdicts() -> None:
    net = conv_net()
    x, y = labelled(net, 60)
    results = [small().run(net, x, y, batch_size=size) for size in (4, 16, 64)]
    assert all(torch.equal(result.broken_by, results[0].broken_by) for result in results)
    assert results[1].shapes == tuple(
        min(16, max(4, 1 << (n - 1).bit_length())) for n in (52, *results[1].survivors[:-1])
    )


@pytest.mark.parametrize(("threat", "largest"), [(Linf(epsilon=0.1), 0.0), (L2(epsilon=2.0), 1e-6)], ids=["linf", "l2"])
def test_at_another_padded_shape_the_images_that_differ_are_counted(
    threat: Threat, largest: float, record_property: Callable[[str, object], None]
) -> None:
    """One lane is multiplied by other kernels than several. In L2 the last bits of 53 images of 53 differ, in a third
    of their pixels (5,581 of 18,000 when this was written); in Linf, where steps are signs, no pixel does."""
    net = conv_net()
    x, y = labelled(net, 60)
    one, *others = (small(threat).run(net, x, y, batch_size=size, fixed_shape=True) for size in (1, 4, 64))
    assert int((one.broken_by >= 0).sum()) > 30
    for result in others:
        differs = result.x_adv != one.x_adv
        record_property("images that differ", int(differs.flatten(1).any(1).sum()))
        record_property("pixels that differ", int(differs.sum()))
        assert torch.equal(result.broken_by, one.broken_by)
        assert torch.equal(result.predicted, one.predicted)
        assert float((result.x_adv - one.x_adv).abs().max()) <= largest


def test_the_seed_decides_and_nothing_else() -> None:
    net = conv_net()
    x, y = labelled(net, 30)
    first, again, other = (small().run(net, x, y, seed=seed) for seed in (3, 3, 4))
    torch.manual_seed(99)
    assert same(first, again)
    assert same(first, small().run(net, x, y, seed=3))
    assert not torch.equal(first.x_adv, other.x_adv)


def test_the_attack_interface_gives_images_that_fool_and_leaves_the_model_as_it_was() -> None:
    net = conv_net()
    x, y = labelled(net, 40)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x_adv = small()(net, x, y)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with torch.no_grad():
        robust = net.eval()(x_adv).argmax(1) == y
    result = small().run(net, x, y)
    assert abs(int(robust.sum()) - int(result.robust.sum())) <= 2  # the two draw different numbers
    assert torch.equal(x_adv[robust], x[robust])


class Falls(Search):
    """A search in which example i falls at step i of its run number i % 3, or never if i is a multiple of 5."""

    runs, steps = 3, 12

    def begin(self, examples: Examples, run: Tensor) -> State:
        number = examples.draw.index
        off = torch.zeros_like(number, dtype=torch.bool)
        return {"number": number, "run": run, "k": torch.zeros_like(number), "fooled": off, "found": examples.x}

    def step(self, state: State) -> State:
        s, number = dict(state), state["number"]
        s["k"] = s["k"] + 1
        now = (s["k"] == 1 + number % 12) & (s["run"] == number % 3) & (number % 5 > 0)
        s["found"] = torch.where((now & ~s["fooled"])[:, None], number[:, None] * 100.0 + s["k"][:, None], s["found"])
        s["fooled"] = s["fooled"] | now
        return s


@pytest.mark.parametrize("width", [1, 4, 7, 64])
def test_lanes_whose_steps_are_queued_find_the_same(queued: Callable[[], None], width: int) -> None:
    queued()
    index = torch.arange(37)
    pool = Examples(
        torch.zeros(37, 1), torch.zeros(37, dtype=torch.int64), torch.zeros(37, 2), everyone(0, "test", count=37)
    )
    lanes = Lanes(Falls(), pool, width)
    while lanes.advance():
        pass
    falls = index % 5 > 0
    assert torch.equal(lanes.fooled, falls)
    assert torch.equal(lanes.found[:, 0], torch.where(falls, index * 100.0 + 1 + index % 12, torch.zeros(37)))
    assert lanes.finished.all()


@pytest.mark.parametrize("width", [1, 4, 7, 64])
@pytest.mark.parametrize("leave", ["at once", "after the run", "never"])
def test_lanes_give_every_example_its_runs_and_steps_and_no_more(width: int, leave: str) -> None:
    index = torch.arange(37)
    pool = Examples(
        torch.zeros(37, 1), torch.zeros(37, dtype=torch.int64), torch.zeros(37, 2), everyone(0, "test", count=37)
    )
    lanes = Lanes(Falls(), pool, width, leave)  # type: ignore[arg-type]
    while lanes.advance():
        assert 0 <= lanes.share_done() <= 1
    falls = index % 5 > 0
    assert torch.equal(lanes.fooled, falls)
    assert torch.equal(lanes.found[:, 0], torch.where(falls, index * 100.0 + 1 + index % 12, torch.zeros(37)))
    spent = {
        "at once": (index % 3) * 12 + 1 + index % 12,
        "after the run": (index % 3 + 1) * 12,
        "never": torch.full_like(index, 36),
    }
    assert lanes.useful_steps == int(torch.where(falls, spent[leave], 36).sum())
    assert lanes.finished.all()


def test_lanes_go_on_from_any_snapshot() -> None:
    pool = Examples(
        torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64), torch.zeros(20, 2), everyone(0, "test", count=20)
    )
    whole = Lanes(Falls(), pool, 4)
    while whole.advance():
        pass
    for rounds in (0, 1, 17, 40):
        begun = Lanes(Falls(), pool, 4)
        for _ in range(rounds):
            begun.advance()
        resumed = Lanes(Falls(), pool, 4)
        resumed.restore(begun.snapshot())
        while resumed.advance():
            pass
        assert torch.equal(resumed.found, whole.found)
        assert (resumed.lane_steps, resumed.useful_steps) == (whole.lane_steps, whole.useful_steps)


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_autoattack import conv_net, labelled, small
net = conv_net()
x, y = labelled(net, 48)
state = Path(sys.argv[2])
say = lambda report: state.exists() and print("saved", flush=True)
small().run(net, x, y, batch_size=8, state_path=state, save_seconds=0.0, progress=say)
print("finished", flush=True)
"""


@pytest.mark.parametrize(
    "delays", [(0.3,), pytest.param((0.02, 0.5, 0.1, 0.7, 0.3, 0.05, 0.6, 0.2, 0.4, 0.8), marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_it_resumes_to_the_unbroken_result(tmp_path: Path, delays: tuple[float, ...]) -> None:
    net = conv_net()
    x, y = labelled(net, 48)
    whole: list[Status] = []
    unbroken = small().run(net, x, y, batch_size=8, progress=whole.append)
    state, kills = tmp_path / "state.safetensors", 0
    for delay in delays:
        command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(state)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert child.stdout is not None
        assert child.stdout.readline() == b"saved\n"
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
        child.stdout.close()
    assert kills
    last: list[Status] = []
    assert same(small().run(net, x, y, batch_size=8, state_path=state, progress=last.append), unbroken)
    assert len(last) < len(whole), "it goes on with what was saved"


def test_a_run_stopped_inside_an_attack_keeps_what_it_found(tmp_path: Path) -> None:
    net = conv_net()
    x, y = labelled(net, 48)
    unbroken = small().run(net, x, y, batch_size=8)
    for stop_at in (1, 90):
        state, rounds = tmp_path / f"{stop_at}.safetensors", []

        def stop(report: Status, rounds: list[Status] = rounds, stop_at: int = stop_at) -> None:
            rounds.append(report)
            if len(rounds) == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            small().run(net, x, y, batch_size=8, state_path=state, save_seconds=0.0, progress=stop)
        before = len(rounds)
        rounds.clear()
        resumed = small().run(
            net, x, y, batch_size=8, state_path=state, progress=lambda report, rounds=rounds: rounds.append(report)
        )
        assert same(resumed, unbroken)
        assert (
            len(rounds) + before
            <= sum(done // shape for (done, _), shape in zip(unbroken.steps, unbroken.shapes, strict=True)) + 1
        )


@pytest.mark.parametrize("attack", [1, 2, 4])
def test_what_an_attack_found_is_saved_when_it_is_over_and_what_is_in_progress_when_it_is_asked_to_stop(
    tmp_path: Path, attack: int
) -> None:
    net = conv_net()
    x, y = labelled(net, 48)
    unbroken = small().run(net, x, y, batch_size=8)
    rounds = [done // shape for (done, _), shape in zip(unbroken.steps, unbroken.shapes, strict=True)]

    def until(stop: type[BaseException], seen: list[Status]) -> Callable[[Status], None]:
        """Stops after the second round of this attack."""

        def stopping(report: Status) -> None:
            seen.append(report)
            if sum(each.number == attack for each in seen) == 2:
                raise stop

        return stopping

    for stop in (KeyboardInterrupt, Interrupted):
        state, before, after = tmp_path / f"{stop.__name__}.safetensors", list[Status](), list[Status]()
        if attack == 1 and stop is KeyboardInterrupt:
            continue  # nothing is over
        with pytest.raises(stop):
            small().run(net, x, y, batch_size=8, state_path=state, progress=until(stop, before))
        assert same(small().run(net, x, y, batch_size=8, state_path=state, progress=after.append), unbroken)
        assert len(before) == sum(rounds[: attack - 1]) + 2
        assert len(after) == sum(rounds[attack - 1 :]) - 2 * (stop is Interrupted)


def test_a_stopped_run_goes_on_with_its_own_lanes_whatever_would_fit_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = conv_net()
    x, y = labelled(net, 24)
    state = tmp_path / "state.safetensors"
    widths = iter((16, 8))
    monkeypatch.setattr("poise.attacks.autoattack.autoattack.find_batch_size", lambda *given: next(widths))
    unbroken = small().run(net, x, y, batch_size=16)

    def stop(report: Status) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        small().run(net, x, y, state_path=state, progress=stop)
    assert same(small().run(net, x, y, state_path=state), unbroken)


def test_a_finished_state_answers_at_once_and_a_foreign_or_damaged_one_is_refused(tmp_path: Path) -> None:
    net = conv_net()
    x, y = labelled(net, 24)
    state = tmp_path / "state.safetensors"
    first = small().run(net, x, y, state_path=state)
    rounds: list[Status] = []
    again = small().run(net, x, y, state_path=state, progress=rounds.append)
    assert same(first, again)
    assert first.seconds == again.seconds
    assert not rounds
    with pytest.raises(RunError, match="belongs to another run"):
        small().run(net, x, y, state_path=state, seed=1)
    with pytest.raises(RunError, match="belongs to another run"):
        small().run(conv_net(seed=5), x, y, state_path=state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be read"):
        small().run(net, x, y, state_path=state)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_are_handled_by_rule_and_said(classes: int) -> None:
    net = conv_net(classes)
    x, y = labelled(net, 24)
    parts = (
        APGD(steps=5),
        APGD(loss="dlr", steps=5),
        APGD(loss="targeted_dlr", steps=5),
        FAB(targeted=True, steps=3),
        Square(queries=10),
    )
    result = AutoAttack(threat=LINF, version="custom", attacks=parts).run(net, x, y)
    said = "\n".join(result.notes)
    assert ("DLR needs 3 classes" in said) == (classes < 3)
    assert ("the targeted DLR needs 4 classes" in said) == (classes < 4)
    assert f"APGD-T: {classes - 1} target classes instead of 9" in said
    assert f"FAB-T: {classes - 1} target classes instead of 9" in said
    assert torch.isfinite(result.x_adv).all()


def test_ten_classes_need_no_notes() -> None:
    assert [note for attack in AutoAttack().components() for note in attack.notes(10)] == []


def test_a_set_misclassified_from_the_start_needs_no_attack() -> None:
    net = conv_net()
    x, _ = labelled(net, 12)
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % 6
    result = small().run(net, x, wrong)
    assert result.robust_accuracy == result.natural_accuracy == 0
    assert result.steps == ((0, 0),) * 4
    assert torch.equal(result.x_adv, x)
    assert torch.equal(small()(net, x, wrong), x)


def test_a_single_example_is_enough() -> None:
    net = conv_net()
    x, y = labelled(net, 1)
    assert small().run(net, x, y).survivors[0] in (0, 1)
    assert small()(net, x, y).shape == x.shape


def test_progress_counts_survivors_down_and_ends_at_the_result() -> None:
    net = conv_net()
    x, y = labelled(net, 40)
    seen: list[Status] = []
    result = small().run(net, x, y, batch_size=8, progress=seen.append)
    survivors = [report.survivors for report in seen]
    assert survivors == sorted(survivors, reverse=True)
    assert survivors[-1] == result.survivors[-1]
    assert list(dict.fromkeys(report.attack for report in seen)) == list(result.attacks)
    assert all(0 <= report.share <= 1 for report in seen)
    assert all(report.done <= report.entered for report in seen)
    assert [(name, left) for name, left, _ in seen[-1].over] == list(
        zip(result.attacks[:-1], result.survivors[:-1], strict=True)
    )


def test_a_search_in_bfloat16_still_takes_its_verdicts_in_float32() -> None:
    net, asked = conv_net(), set[tuple[bool, str]]()
    x, y = labelled(net, 40)
    full = small().run(net, x, y, precision="float32")
    net.register_forward_hook(lambda *given: asked.add((torch.is_autocast_enabled("cpu"), str(given[2].dtype))))
    half = small().run(net, x, y, precision="bfloat16")
    assert asked == {(True, "torch.bfloat16"), (False, "torch.float32")}
    with torch.no_grad():
        assert torch.equal(net(half.x_adv).argmax(1) == y, half.robust)
    assert abs(int(full.robust.sum()) - int(half.robust.sum())) <= 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_shapes_are_the_searchs_own_though_claims_in_vain_are_searched_again(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    net = conv_net()
    x, y = labelled(net, 40)
    # claims what is not so
    monkeypatch.setattr("poise.attacks.autoattack.job.surrogate", lambda model, faster: conv_net(seed=5).eval())
    result = small().run(net, x, y, batch_size=64, precision=precision)  # type: ignore[arg-type]
    entered = (int((result.natural == y).sum()), *result.survivors[:-1])
    assert result.shapes == tuple(fitting(count, 64) for count in entered)


def test_a_network_with_noise_in_its_output_is_reported() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, z: Tensor) -> Tensor:
            self.calls += 1
            flip = 1 if self.calls % 2 else -1
            return z.flatten(1)[:, :2] * flip

    x = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    net = Noisy()
    y = x.flatten(1)[:, :2].argmax(1)
    attack = AutoAttack(version="custom", attacks=(APGD(steps=4),), threat=Linf(epsilon=1e-6))
    results = [attack.run(net, x, y, batch_size=16) for _ in range(2)]
    assert any("not deterministic" in note for result in results for note in result.notes)


def test_versions_have_the_published_order_and_budgets() -> None:
    assert [attack.name for attack in AutoAttack().components()] == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert [attack.name for attack in AutoAttack(version="plus").components()] == [
        "APGD-CEx5", "APGD-DLRx5", "FABx5", "Square", "APGD-T", "FAB-T"
    ]  # fmt: skip
    rand = AutoAttack(version="rand", threat=L_2).components()
    assert all(isinstance(attack, APGD) and attack.eot_iterations == 20 and attack.threat == L_2 for attack in rand)
    assert PUBLISHED["square"] == Square(queries=5000, rescale=False)
    named = AutoAttack(version="custom", attacks_to_run=("square", "apgd-ce"))
    assert [attack.name for attack in named.components()] == ["Square", "APGD-CE"]
    assert from_json(AutoAttack, to_json(small())) == small()


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    net = conv_net()
    x, y = labelled(net, 4)
    calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (SettingsError, "needs either attacks_to_run or attacks", lambda: AutoAttack(version="custom")),
        (SettingsError, "use version='custom'", lambda: AutoAttack(attacks_to_run=("square",))),
        (SettingsError, "did you mean 'square'", lambda: AutoAttack(version="custom", attacks_to_run=("sqare",))),
        (InputError, "untargeted", lambda: AutoAttack()(net, x, y, target=y)),
        (InputError, "ids", lambda: small().run(net, x, y, ids=torch.zeros(4, dtype=torch.int64))),
        (InputError, "divide by 255", lambda: small().run(net, x * 255, y)),
        (InputError, "y has shape", lambda: small().run(net, x, y[:2])),
        (InputError, "memory_limit", lambda: small().run(net, x, y, memory_limit=100)),
    ]
    for error, words, call in calls:
        with pytest.raises(error, match=words):
            call()


def test_the_batch_size_follows_the_memory_limit() -> None:
    net, x = conv_net().eval(), torch.rand(1, 3, 10, 10)
    sizes = [find_batch_size(net, x, limit) for limit in (150_000, 600_000, 10**12)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1]
    assert sizes[2] == find_batch_size(net, x)
    assert all(size & (size - 1) == 0 for size in sizes)


def test_measuring_the_memory_of_an_example_leaves_a_network_in_training_mode_as_it_was() -> None:
    net, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(256, 3)),
        torch.rand(2, 3, 10, 10),
    )
    before, drawn = {name: tensor.clone() for name, tensor in net.state_dict().items()}, torch.random.get_rng_state()
    find_batch_size(net.train(), x, 10**9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training and torch.equal(torch.random.get_rng_state(), drawn)


@pytest.mark.parametrize("most", [4, 8, 64, 1024])
def test_lanes_hold_what_enters_in_as_few_and_equally_full_rounds_as_can_be(most: int) -> None:
    for count in (1, 4, 5, 63, 64, 65, 80, 129, 1000):
        width = fitting(count, most)
        rounds = -(-count // most)
        assert 4 <= width <= most
        assert rounds * width >= count, "nobody waits for one round more"
        assert width in (4, most) or width - -(-count // rounds) < 8, "no more than seven lanes are empty in a round"


def test_a_small_network_has_more_lanes_on_a_cpu_than_a_large_one():
    x = torch.rand(2, 1, 28, 28)
    small, large = (network.build((1, 28, 28), 10, seed=0).eval() for network in (SlimCNN(), SmallCNN()))
    assert 3e5 < multiply_adds(small, x) < 2e6 < multiply_adds(large, x)
    assert [on_cpu(32, net, x) for net in (small, large)] == [128, 32]


def test_counting_work_moves_neither_statistics_nor_the_generator():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3)).train()
    x, found = torch.rand(4, 1, 8, 8), {name: tensor.clone() for name, tensor in net.named_buffers()}
    state = torch.get_rng_state()
    assert multiply_adds(net, x) == 2 * 9 * 36 + 72 * 3
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in net.modules())
    assert all(torch.equal(tensor, found[name]) for name, tensor in net.named_buffers())
