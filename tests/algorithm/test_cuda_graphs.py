"""Captured updates give the numbers of updates that are not captured.

CUDA graphs need a GPU. Much of what they ask of an update is checked on the CPU by :class:`Emulator`, which does with
operators what a CUDA graph does with kernels. It knows nothing of streams, of what a GPU's libraries refuse to have
captured, or of one graph that reads memory of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.cuda_graphs import CapturedUpdates
from d2rl.algorithm.learning_rates import scale_rates
from d2rl.algorithm.means import Means
from d2rl.algorithm.replay import ReplayBuffer
from d2rl.common.errors import ConfigError, TrainingError
from d2rl.common.host import training_device
from d2rl.common.timing import Sections
from d2rl.problems import check_config
from d2rl.problems.base import Transition
from d2rl.training.checkpoint import load_checkpoint

Work = Callable[[], None]


class Emulator:
    """Replays operators over the tensors of the recording: no Python runs, and Python's numbers stay what they were.

    What an operator made is overwritten with NaN after each execution, as the memory of a graph may be by another.
    """

    def __init__(self) -> None:
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, work: Work) -> None:
        self.rehearsed += 1
        work()

    def record(self, work: Work) -> Work:
        self.recorded += 1
        with Recording() as recording:
            work()
        recording.spoil()

        def replay() -> None:
            self.replayed += 1
            recording.replay()
            recording.spoil()

        return replay


class Recording(TorchDispatchMode):
    """Executes operators, and notes each with the tensors that it made."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs)) if tensor.numel()}
        made = [tensor for tensor in tensors(out) if tensor.untyped_storage().data_ptr() not in given]
        if made or func._schema.is_mutable:  # the others are views, which need not be made again
            self.operators.append((func, args, kwargs or {}, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.operators:
            given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs)) if tensor.numel()}
            again = [t for t in tensors(func(*args, **kwargs)) if t.untyped_storage().data_ptr() not in given]
            for old, new in zip(made, again, strict=True):
                old.copy_(new)

    @torch.no_grad()
    def spoil(self) -> None:
        for *_, made in self.operators:
            for tensor in made:
                if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                    tensor.fill_(float("nan"))


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def trained(config, fit, recorder=None, during=lambda agent: None, on_device=True, save=None, **options):
    """All that an agent is after a training, in the stages of its configuration that begin with it.

    :param recorder: of its updates, None: as the configuration says
    :param during: called with the agent after every training step
    :param on_device: learning rates are tensors, as they always are on a GPU
    :param save: file for a checkpoint at the end
    """
    torch.manual_seed(0)
    agent, logged = D2RL(config), []

    def begin(trainer, agent) -> None:
        agent.rates_on_device |= on_device
        if recorder is not None:
            agent.captured = CapturedUpdates(agent, recorder)
        agent.chi = 0.5
        for name in agent.stages:
            if getattr(config.stages, name) == 0 and not agent.stages[name]:
                agent.begin_stage(name)

    def after(trainer, agent) -> None:
        if agent.updates % 4 == 0:  # some sums go on through several training steps
            logged.append(agent.means.collect())
        during(agent)

    trainer = fit(agent, LambdaCallback(on_train_start=begin), after, **options)
    if save:
        trainer.save_checkpoint(save)
    optimizers = [optimizer.optimizer for optimizer in agent.optimizers()]
    return {
        "weights": agent.state_dict(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in optimizers],
        "rates": [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers],
        "generators": [agent.generator.get_state(), *(world.generator.get_state() for world in agent.worlds)],
        "replay": [world.replay.state_dict() for world in agent.worlds],
        "skipped": agent.skipped_steps(),
        "counts": (agent.updates, agent.environment_steps, agent.replacements_due, trainer.global_step),
        "steps": agent.steps,
        "means": (logged, agent.means.collect()),
    }


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The parts of two results that are not the same, bit for bit."""

    def same(one: Any, two: Any) -> bool:
        if isinstance(one, Tensor):
            return torch.equal(one, two)
        return one == two or (one != one and two != two)  # what is not a number is as it should be, too

    found = []
    for name in first:
        (leaves, spec), (others, other) = tree_flatten(first[name]), tree_flatten(second[name])
        if spec != other or not all(map(same, leaves, others)):
            found.append(name)
    return found


ALL = (
    *("reward.case=designed_gdm", "stages.action=0", "stages.reward=0", "stages.state=0", "ddpg.warmup_updates=0"),
    *("reward.every=2", "state.every=3", "trainer.updates_per_epoch=36", "trainer.updates_per_step=2"),
)


def late_stages(agent: D2RL) -> None:
    """Stages that begin, and rewards that lose trust, in the middle of a run."""
    for update, name in ((8, "action"), (16, "reward"), (22, "state")):
        if agent.updates == update:
            agent.begin_stage(name)
    agent.fallback = 26 <= agent.updates < 30


def lost_numbers(agent: D2RL) -> None:
    """Some of what is learned from is not finite for a while."""
    if agent.updates == 16:
        agent.replay.storage["view"][-4:] = float("nan")


def precision(agent: D2RL) -> None:
    agent.autocast_type = torch.bfloat16 if agent.updates > 10 else None


CHANGES = [
    (),
    ("scenario.csi_error=0.1",),
    ("scenario.stored_states=20",),
    ("scenario.loads=2+2", "scenario.head=switching"),
    ("ddpg.gamma=0.5",),
    ("ddpg.analytic=true",),
    ("ddpg.replay=24",),  # full after 3 slots; else after 8
    ("ddpg.replay=1024",),  # never
    ("ddpg.warmup_updates=9", "ddpg.warmup_critic_updates=3"),
    ("stages.action=null",),
    ("stages.action=null", "ddpg.gamma=0.5", "network.critic=numbers"),
    ("action.objective=mixed", "action.gradient_steps=2", "reward.every=1"),
    ("action.objective=weighted",),
    ("action.objective=flow",),
    ("reward.case=raw",),
    ("reward.risk=cvar",),
    ("network.kind=mlp", "network.critic=numbers"),
    ("trainer.updates_per_slot=3", "trainer.updates_per_step=4"),
]


@pytest.mark.parametrize(
    ("change", "during"),
    [
        *(pytest.param(change, None, marks=pytest.mark.slow) for change in CHANGES),
        pytest.param(
            ("stages.action=1", "stages.reward=1", "stages.state=1", "reward.every=1", "state.every=1"),
            late_stages,
            marks=pytest.mark.slow,
        ),
        pytest.param((), precision, marks=pytest.mark.slow),
        ((), lost_numbers),
    ],
    ids=lambda value: value.__name__ if callable(value) else ",".join(value or ()) or "everything",
)
def test_captured_updates_give_the_numbers_of_those_that_are_not(tiny, fit, change, during):
    config, emulator = tiny(*ALL, *change), Emulator()
    during = during or (lambda agent: None)
    plain, captured = (trained(config, fit, recorder, during) for recorder in (None, emulator))
    assert emulator.replayed > emulator.recorded > 0
    assert emulator.rehearsed + emulator.recorded + emulator.replayed == plain["counts"][0] == 36
    assert (plain["skipped"] > 0) == (during is lost_numbers)
    assert differences(plain, captured) == []


def test_an_update_of_a_kind_is_rehearsed_then_recorded_then_replayed(tiny, fit):
    emulator = Emulator()
    config = tiny(*ALL, "reward.every=1", "state.every=1", "ddpg.warmup_updates=10")
    trained(config, fit, emulator)
    assert (emulator.rehearsed, emulator.recorded, emulator.replayed) == (2, 2, 32)


@pytest.mark.slow
def test_optimizers_are_told_that_they_are_captured_only_while_they_are(tiny, fit):
    told, agents = [], []

    class Asking(Emulator):
        def record(self, work: Work) -> Work:
            groups = [group for optimizer in agents[0].optimizers() for group in optimizer.param_groups]
            told.append(all(group["capturable"] for group in groups))
            return super().record(work)

    trained(tiny(*ALL), fit, Asking(), lambda agent: agents.append(agent))
    assert told
    assert all(told)
    assert not any(group["capturable"] for one in agents[0].optimizers() for group in one.param_groups)


# ------------------------------------------------------------------ what a captured update must not do


def python_rates(monkeypatch) -> None:
    """Learning rates that are Python's numbers."""
    monkeypatch.setattr(
        "d2rl.algorithm.module.scale_rates", lambda optimizers, factor, _: scale_rates(optimizers, factor, None)
    )


def python_bound(monkeypatch) -> None:
    """Indices below a Python number."""

    def sample(self: ReplayBuffer, count: int, generator: torch.Generator) -> Transition:
        index = torch.randint(self.filled, (count,), generator=generator)
        return self.form.with_tensors({name: tensor.index_select(0, index) for name, tensor in self.storage.items()})

    monkeypatch.setattr(ReplayBuffer, "sample", sample)


def moving_sums(monkeypatch) -> None:
    """Sums that are new tensors after each value."""

    def add(self: Means, name: str, value: Tensor) -> None:
        self.totals[name] = self.totals[name] + value.detach() if name in self.totals else value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    monkeypatch.setattr(Means, "add", add)


def moving_states(monkeypatch) -> None:
    """The rows of the slot's states as they are, new tensors in each."""
    monkeypatch.setattr(CapturedUpdates, "_kept", lambda self, rows: rows)


def one_kind(monkeypatch) -> None:
    """Python that decides what is done in an update."""
    monkeypatch.setattr(D2RL, "kind_of_update", lambda self: ())


def forgotten_steps(monkeypatch) -> None:
    """Counts of Lightning's that replays leave out."""
    monkeypatch.setattr("d2rl.algorithm.cuda_graphs._count_in_trainer", lambda agent, steps: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "seen"),
    [
        pytest.param(python_rates, "weights", marks=pytest.mark.slow),
        (python_bound, "weights"),
        pytest.param(moving_sums, "means", marks=pytest.mark.slow),
        pytest.param(moving_states, "weights", marks=pytest.mark.slow),
        pytest.param(one_kind, "weights", marks=pytest.mark.slow),
        pytest.param(forgotten_steps, "counts", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_emulator_sees_what_a_graph_would_keep(tiny, fit, monkeypatch, mistake, seen):
    mistake(monkeypatch)
    config = tiny(*ALL)
    assert seen in differences(*(trained(config, fit, recorder) for recorder in (None, Emulator())))


def test_the_emulator_sees_who_reads_what_a_graph_made_on_the_way():
    weight, made = torch.ones(3), []

    def work() -> None:
        made.append(weight * 2)
        weight.add_(made[-1])

    replay = Emulator().record(work)
    assert weight.tolist() == [3.0] * 3
    replay()
    assert weight.tolist() == [9.0] * 3
    assert len(made) == 1
    assert made[0].isnan().all()


def test_an_update_that_cannot_be_captured_ends_in_one_message(tiny, fit):
    class Refusing(Emulator):
        def record(self, work: Work) -> Work:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nsearch for it")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    agents = []
    with pytest.raises(TrainingError) as error:
        trained(tiny(*ALL), fit, Refusing(), agents.append)
    assert str(error.value) == (
        "training error: trainer.cuda_graphs=true: an update cannot be captured as a CUDA graph (operation not "
        "permitted when stream is capturing; before the first operator); set trainer.cuda_graphs=false."
    )
    groups = [group for optimizer in agents[0].optimizers() for group in optimizer.param_groups]
    assert not any(group["capturable"] for group in groups)


def test_the_reason_is_that_of_the_capture_whatever_was_handled_before(tiny, fit):
    class Refusing(Emulator):
        def record(self, work: Work) -> Work:
            try:
                raise KeyError("of no interest")
            except KeyError:
                raise RuntimeError("operation not permitted")  # noqa: B904

    with pytest.raises(TrainingError, match=r"as a CUDA graph \(operation not permitted; "):
        trained(tiny(*ALL), fit, Refusing())


@pytest.mark.slow
def test_recorded_updates_are_given_up_when_training_ends(tiny, fit):
    agent = D2RL(tiny(*ALL))

    def begin(trainer, agent) -> None:
        agent.rates_on_device = True
        agent.captured = CapturedUpdates(agent, Emulator())

    fit(agent, LambdaCallback(on_train_start=begin))
    assert agent.updates > 0
    assert agent.captured is None


def test_captured_updates_are_one_section(tiny, fit):
    names = []

    class Noting(Sections):
        def __call__(self, name: str):
            names.append(name)
            return super().__call__(name)

    def watch(agent: D2RL) -> None:
        if not isinstance(agent.sections, Noting):
            agent.sections = Noting()

    trained(tiny(*ALL), fit, Emulator(), watch)
    assert names.count("update") == 34  # all but those of the first training step
    assert names.count("aenpnn") == 34  # one in each slot, and none in an update


# ------------------------------------------------------------------ checkpoints


@pytest.mark.slow
def test_a_resumed_run_with_captured_updates_equals_one_that_was_not_interrupted(tiny, fit, tmp_path):
    config, saved = tiny(*ALL, "trainer.updates_per_epoch=20"), tmp_path / "first.ckpt"
    whole = trained(config, fit, None, epochs=2)
    trained(config, fit, Emulator(), epochs=1, save=saved)
    resumed = trained(config, fit, Emulator(), epochs=2, checkpoint=saved)
    assert set(differences(whole, resumed)) == {"steps", "means"}  # those of the second part alone
    assert resumed["means"][0] == whole["means"][0][5:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "before", [pytest.param(False, marks=pytest.mark.slow, id="numbers"), pytest.param(True, id="tensors")]
)
def test_a_checkpoint_with_learning_rates_of_either_form_can_be_gone_on_from(tiny, fit, tmp_path, before):
    config, saved = tiny(*ALL, "trainer.updates_per_epoch=20"), tmp_path / "first.ckpt"
    trained(config, fit, on_device=before, epochs=1, save=saved)
    rates = [group["lr"] for part in load_checkpoint(saved)["optimizer_states"] for group in part["param_groups"]]
    assert all(isinstance(rate, Tensor) == before for rate in rates)
    emulator = None if before else Emulator()
    changed = trained(config, fit, emulator, on_device=not before, epochs=2, checkpoint=saved)
    whole = trained(config, fit, on_device=before, epochs=2)
    assert changed["counts"] == whole["counts"]
    assert changed["rates"] == pytest.approx(whole["rates"], rel=1e-6)


# ------------------------------------------------------------------ where it can be used


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "trainer.accelerator=cpu"),
        (("trainer.accelerator=gpu", "trainer.devices=2"), "trainer.devices x trainer.nodes is 2"),
        (("trainer.accelerator=gpu", "trainer.nodes=2"), "trainer.devices x trainer.nodes is 2"),
        (("trainer.accelerator=auto", "trainer.strategy=ddp"), "trainer.strategy=ddp"),
    ],
)
def test_graphs_where_there_can_be_none_are_refused(tiny, overrides, words):
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graphs=true") as error:
        check_config(tiny("trainer.cuda_graphs=true", *overrides))
    assert words in str(error.value)
    check_config(tiny(*overrides))


def test_graphs_are_for_one_gpu(tiny):
    check_config(tiny("trainer.cuda_graphs=true", "trainer.accelerator=gpu"))
    check_config(tiny("trainer.cuda_graphs=true", "trainer.accelerator=auto"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_graphs_without_a_gpu_are_refused(tiny):
    config = tiny("trainer.cuda_graphs=true", "trainer.accelerator=auto")
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graphs=true needs a GPU, and torch sees none here"):
        training_device(config.trainer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs")
@pytest.mark.parametrize(
    "change",
    [
        (),
        ("ddpg.gamma=0.5",),
        ("stages.action=null",),
        ("ddpg.analytic=true",),
        ("scenario.loads=2+2",),
        ("scenario.transmit_antennas=32",),
    ],
    ids=lambda change: ",".join(change) or "everything",
)
def test_graphs_on_a_gpu_give_the_numbers_of_plain_updates(tiny, fit, change):
    plain, captured = (
        trained(tiny(*ALL, *change, f"trainer.cuda_graphs={graphs}"), fit, accelerator="gpu")
        for graphs in ("false", "true")
    )
    assert set(differences(plain, captured)) <= {"weights", "optimizers", "replay", "means"}
    for name in ("weights", "optimizers", "replay", "means"):  # sums over many threads may come out in another order
        torch.testing.assert_close(captured[name], plain[name], rtol=1e-3, atol=1e-4)
