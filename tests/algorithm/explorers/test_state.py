"""The state explorer on channels whose distribution is known."""

import dataclasses
import warnings

import lightning as L
import pytest
import torch

from d2rl.algorithm.explorers.state import SENPNN, RowDataset, turned
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import Rows
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.simulator import CellState
from d2rl.wireless import ChannelState
from d2rl.wireless.fading import complex_normal, rician, scale, steering, whiten
from d2rl.wireless.propagation import LinkGains, Positions, user_positions

ANTENNAS = 4
CORRELATION = 0.9
PROBLEM = FullDuplexProblem(FullDuplexConfig(transmit_antennas=ANTENNAS, receive_antennas=ANTENNAS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(
    batch: int, seed: int, correlation: float = 0.0, users: tuple[int, int] = (3, 2)
) -> tuple[ChannelState, LinkGains]:
    """Rayleigh channels over random mean gains; adjacent antennas correlated at both arrays."""
    generator = seeded(seed)
    k_d, k_u = users
    shapes = ((k_d, ANTENNAS), (k_u, ANTENNAS), (k_u, k_d), (ANTENNAS, ANTENNAS))
    small = ChannelState(*(complex_normal((batch, *shape), generator, torch.device("cpu")) for shape in shapes))
    index = torch.arange(ANTENNAS)
    root = torch.linalg.cholesky(correlation ** (index[:, None] - index).abs().float()).to(torch.complex64).mT
    small = ChannelState(small.downlink @ root, small.uplink @ root, small.cross, small.self_interference)
    gains = LinkGains(
        *(10 ** (4 * torch.rand((batch, *s), generator=generator)) for s in ((k_d,), (k_u,), (k_u, k_d), ()))
    )
    return scale(small, gains), gains


def state_of(channels: ChannelState, gains: LinkGains) -> CellState:
    return CellState(channels, channels, gains, torch.ones(channels.batch, channels.links))


def rows_of(channels: ChannelState, gains: LinkGains) -> dict[str, Rows]:
    return PROBLEM.rows(state_of(channels, gains))


def generate(
    explorer: SENPNN, channels: ChannelState, gains: LinkGains, step: int | None = None, seed: int = 0
) -> ChannelState:
    """New channels with the same mean gains."""
    made = explorer.generate(rows_of(channels, gains), step, generator=seeded(seed))
    return PROBLEM.with_rows(state_of(channels, gains), made, seeded()).channels


def train(explorer: SENPNN, data: tuple[ChannelState, LinkGains], updates: int) -> SENPNN:
    optimizer, generator = explorer.configure_optimizers(), seeded(1)
    for _ in range(updates):
        chosen = torch.randint(0, data[0].batch, (64,), generator=generator)
        loss, _ = explorer.loss(rows_of(data[0][chosen], data[1][chosen]), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


def build(steps: int = 6, lr: float = 3e-3, **kwargs) -> SENPNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SENPNN(PROBLEM.row_sizes(), steps=steps, width=48, lr=lr, **kwargs)


def adjacent_correlation(rows: torch.Tensor) -> float:
    rows = rows.flatten(0, -2)
    inner = (rows[:, 1:] * rows[:, :-1].conj()).mean()
    return (inner / rows.abs().square().mean()).abs().item()


@pytest.fixture(scope="module")
def on_rayleigh() -> SENPNN:
    return train(build(), draw(1024, seed=2), 100)


@pytest.fixture(scope="module")
def on_correlated() -> SENPNN:
    return train(build(lr=1e-2), draw(2048, seed=2, correlation=CORRELATION), 250)


def test_the_loss_is_at_its_floor_on_rayleigh_channels(on_rayleigh):
    held_out = rows_of(*draw(256, seed=3))
    after = on_rayleigh.held_out_loss(held_out, seeded()).item()
    assert on_rayleigh.floor == pytest.approx(0.305, abs=1e-3)
    assert after == pytest.approx(on_rayleigh.floor, rel=0.04)


@pytest.mark.slow
def test_loss_on_correlated_channels_goes_below_the_floor_of_white_ones(on_correlated):
    held_out = rows_of(*draw(256, seed=3, correlation=CORRELATION))
    assert on_correlated.held_out_loss(held_out, seeded()) < 0.9 * on_correlated.floor


@pytest.mark.parametrize("step", [2, 6])
def test_generated_channels_have_the_correlation_that_corruption_destroys(on_correlated, step):
    channels, gains = draw(1024, seed=4, correlation=CORRELATION)
    small = whiten(channels, gains)
    noise = complex_normal(small.downlink.shape, seeded(5), torch.device("cpu"))
    corrupted = adjacent_correlation(on_correlated.schedule.corrupt(small.downlink, step, noise))
    made = whiten(generate(on_correlated, channels, gains, step, seed=6), gains)
    assert corrupted < 0.6
    for rows in (made.downlink, made.uplink):
        assert adjacent_correlation(rows) == pytest.approx(CORRELATION, abs=0.07)  # weak directions lose power


@pytest.mark.parametrize("updates", [0, 40])
@pytest.mark.slow
def test_power_of_generated_channels_stays_sane_however_little_was_trained(updates):
    channels, gains = draw(512, seed=4)
    explorer = train(build(), (channels, gains), updates)
    for name, tensor in whiten(generate(explorer, channels, gains), gains).tensors().items():
        assert 0.7 < tensor.abs().square().mean().item() < 1.4, name


def test_bf16_and_a_broken_state_leave_a_usable_explorer(on_rayleigh):
    channels, gains = draw(64, seed=4)
    explorer = build()
    explorer.load_state_dict(on_rayleigh.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, metrics = explorer.loss(rows_of(channels, gains), seeded())
    assert metrics["loss"].item() == pytest.approx(explorer.floor, rel=0.15)
    broken = channels.map(lambda t: t.index_fill(0, torch.tensor([3]), float("nan")))
    assert not torch.isfinite(explorer.loss(rows_of(broken, gains), seeded())[0])
    made = whiten(generate(explorer, channels, gains), gains)
    assert made.downlink.abs().square().mean().item() == pytest.approx(1, abs=0.2)


def test_a_line_of_sight_is_kept():
    """Rician self-interference of K = 1 dB: mean sqrt(K / (K + 1)), unit power."""
    rayleigh, gains = draw(512, seed=4)
    small = whiten(rayleigh, gains)
    channels = scale(dataclasses.replace(small, self_interference=rician(small.self_interference, 1.0)), gains)
    explorer = train(build(), (channels, gains), 60)
    made = whiten(generate(explorer, channels, gains), gains).self_interference
    k = 10**0.1
    assert made.real.mean().item() == pytest.approx((k / (k + 1)) ** 0.5, abs=0.05)
    assert made.abs().square().mean().item() == pytest.approx(1, abs=0.1)


def test_generated_channels_keep_the_mean_gain_of_every_link(on_rayleigh):
    channels, gains = draw(1, seed=4)
    many, same = channels.repeat(2000), LinkGains(*(t.repeat_interleave(2000, 0) for t in gains.tensors().values()))
    made = generate(on_rayleigh, many, same)
    assert {n: t.shape for n, t in made.tensors().items()} == {n: t.shape for n, t in many.tensors().items()}
    power = made.map(lambda t: t.abs().square().mean(0))
    torch.testing.assert_close(power.downlink.mean(-1), gains.downlink[0], rtol=0.2, atol=0)
    torch.testing.assert_close(power.uplink.mean(-1), gains.uplink[0], rtol=0.2, atol=0)
    torch.testing.assert_close(power.cross, gains.cross[0], rtol=0.2, atol=0)
    torch.testing.assert_close(power.self_interference.mean(), gains.self_interference[0], rtol=0.2, atol=0)


def test_a_smaller_step_stays_closer_to_the_real_sample(on_rayleigh):
    channels, gains = draw(256, seed=4)
    small = whiten(channels, gains).downlink
    distances = []
    for step in (1, 3, 6):
        made = whiten(generate(on_rayleigh, channels, gains, step), gains).downlink
        distances.append((made - small).abs().square().mean().item())
    assert 0 < distances[0] < distances[1] < distances[2]
    assert distances[2] == pytest.approx(2, rel=0.2)


def test_one_explorer_serves_any_number_of_users(on_rayleigh):
    channels, gains = draw(5, seed=6, users=(9, 1))
    made = generate(on_rayleigh, channels, gains).validate()
    assert (made.downlink_users, made.uplink_users) == (9, 1)
    assert torch.isfinite(on_rayleigh.held_out_loss(rows_of(channels, gains), seeded()))


def test_users_are_exchangeable(on_correlated):
    """The predicted velocity follows the order of the rows."""
    numbers, order = torch.randn(2, 7, 2 * ANTENNAS, generator=seeded()), torch.randperm(7, generator=seeded())
    network, level = on_correlated.networks["downlink"], torch.randn(2, 7, 1, generator=seeded(1))
    known = network.embed(Rows(numbers, level))
    torch.testing.assert_close(network(numbers[:, order], 3, known[:, order]), network(numbers, 3, known)[:, order])


def test_generator_decides_everything(on_rayleigh):
    channels, gains = draw(4, seed=7)
    state = torch.get_rng_state()

    def run(seed):
        made = generate(on_rayleigh, channels, gains, seed=seed).downlink
        return made, on_rayleigh.held_out_loss(rows_of(channels, gains), seeded(seed))

    torch.testing.assert_close(run(1), run(1), rtol=0, atol=0)
    assert not torch.equal(run(1)[0], run(2)[0])
    build().loss(rows_of(channels, gains), seeded())
    assert torch.equal(state, torch.get_rng_state())


def test_held_out_loss_changes_nothing_and_agrees_with_the_loss(on_rayleigh):
    data = rows_of(*draw(2048, seed=8))
    before = {name: tensor.clone() for name, tensor in on_rayleigh.state_dict().items()}
    held_out = on_rayleigh.held_out_loss(data, seeded())
    torch.testing.assert_close(on_rayleigh.state_dict(), before, rtol=0, atol=0)
    explorer = build()
    explorer.load_state_dict(before)
    _, metrics = explorer.loss(data, seeded(1))
    assert held_out.item() == pytest.approx(metrics["loss"].item(), rel=0.03)
    assert set(metrics) == {"loss", "loss_downlink", "loss_uplink", "loss_cross", "loss_self_interference"}
    assert not any(value.requires_grad for value in metrics.values())


def test_trainer_fits_the_explorer_alone(tmp_path):
    channels, gains = draw(512, seed=9, correlation=CORRELATION)
    explorer = build(lr=1e-2)
    before = explorer.held_out_loss(rows_of(channels, gains), seeded())
    bank = RowDataset(rows_of(channels, gains))
    trainer = L.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(explorer, bank.loader(64, generator=seeded()), bank.loader(256, shuffle=False))
    assert trainer.callback_metrics["state/held_out_loss"] < 0.95 * before
    assert "state/loss_downlink" in trainer.callback_metrics
    restored = SENPNN.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    torch.testing.assert_close(
        generate(restored, channels, gains).downlink,
        generate(explorer, channels, gains).downlink,
    )


def test_loss_works_inside_another_module():
    class Agent(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.state_explorer = build()

        def training_step(self, batch, index):
            return self.state_explorer.loss(rows_of(*draw(8, seed=1)), seeded())[0]

        def configure_optimizers(self):
            return self.state_explorer.configure_optimizers()

    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Agent(), torch.utils.data.DataLoader(range(2)))
    assert trainer.global_step == 2


def test_single_step_chain_works():
    channels, gains = draw(512, seed=1)
    explorer = train(build(steps=1), (channels, gains), 20)
    made = whiten(generate(explorer, channels, gains), gains)
    assert made.downlink.abs().square().mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_outside_the_chain_is_refused(step):
    with pytest.raises(ValueError, match="1 to 6"):
        generate(build(), *draw(2, seed=1), step)


def test_rows_of_other_antennas_and_gains_of_other_shapes_are_refused():
    channels, gains = draw(2, seed=1)
    with pytest.raises(ValueError, match=r"rows of \{'downlink': 16, .*\} numbers, these are \{'downlink': 8, "):
        SENPNN({**PROBLEM.row_sizes(), "downlink": 16}).loss(rows_of(channels, gains), seeded())
    with pytest.raises(ValueError, match=r"gains\.downlink has shape"):
        rows_of(channels, draw(3, seed=1)[1])


def test_a_data_set_is_of_whole_states_of_unit_variance():
    channels, gains = draw(6, seed=1)
    rows = rows_of(channels, gains)
    bank = RowDataset(rows)
    assert len(bank) == 6
    for name, chosen in bank.__getitems__([4, 1]).items():
        assert torch.equal(chosen.numbers, rows[name].numbers[[4, 1]])
        assert torch.equal(bank[3][name].level, rows[name].level[3:4])
    with pytest.raises(ValueError, match="rows of uplink are of 5 states, others of 6"):
        RowDataset(rows | {"uplink": rows["uplink"][:5]})
    with pytest.raises(ValueError, match="rows of downlink hold NaN"):
        RowDataset(rows_of(channels.map(lambda t: t / 0), gains))
    for factor in (0, 1e-6, 1e6):  # gains that are not those of the channels
        other = LinkGains(**{**gains.tensors(), "cross": factor * gains.cross})
        with pytest.raises(ValueError, match="rows of cross"):
            RowDataset(rows_of(channels, other))


# ------------------------------------------------------------------ places, users, sizes


def at_places(batch: int, seed: int, users: tuple[int, int] = (3, 2)) -> CellState:
    """Channels that are but a line of sight of the place and a tenth of their power scattered."""
    channels, gains = draw(batch, seed, users=users)
    generator, small = seeded(seed + 100), whiten(channels, gains)
    places = Positions(*(user_positions(batch, k, 100.0, 10.0, generator, torch.device("cpu")) for k in users))
    down, up = (
        rician(one, 10.0, steering(at, ANTENNAS))
        for one, at in zip((small.downlink, small.uplink), places, strict=True)
    )
    made = scale(dataclasses.replace(small, downlink=down, uplink=up), gains)
    return dataclasses.replace(state_of(made, gains), positions=places)


LINE_OF_SIGHT = FullDuplexProblem(FullDuplexConfig(transmit_antennas=ANTENNAS, receive_antennas=ANTENNAS, rician=10.0))


def line_of_sight(state: CellState) -> float:
    """Mean amplitude towards the users' places, sqrt(K / (K + 1)) of unit power."""
    small = whiten(state.channels, state.gains).downlink
    return (small * steering(state.positions.downlink, ANTENNAS).conj()).mean().abs().item()


def fitted(problem: FullDuplexProblem, places: dict[str, int], state: CellState, updates: int) -> SENPNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        explorer = SENPNN(problem.row_sizes(), places, width=48, lr=1e-2)
    optimizer, generator, rows = explorer.configure_optimizers(), seeded(1), problem.rows(state)
    for _ in range(updates):
        chosen = torch.randint(0, state.batch, (64,), generator=generator)
        loss, _ = explorer.loss({name: one[chosen] for name, one in rows.items()}, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explorer


@pytest.mark.slow
def test_a_line_of_sight_points_to_where_its_user_is():
    state, other = at_places(1024, seed=2), at_places(256, seed=3)
    found = {}
    for places in (LINE_OF_SIGHT.place_sizes(), {}):
        explorer = fitted(LINE_OF_SIGHT, places, state, 150)
        made = explorer.generate(LINE_OF_SIGHT.rows(other), generator=seeded())
        found[bool(places)] = line_of_sight(LINE_OF_SIGHT.with_rows(other, made, seeded()))
    assert found[True] == pytest.approx((10 / 11) ** 0.5, abs=0.08)
    assert found[False] < 0.5


@pytest.mark.slow
def test_users_of_a_state_that_have_something_in_common_keep_it():
    """One row for all users of a state: synthetic rows agree, too."""
    common = torch.randn(512, 1, 4, generator=seeded()).expand(-1, 3, -1)
    rows = {"observation": Rows(common, torch.zeros(512, 3, 1))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        explorer = SENPNN({"observation": 4}, width=48, lr=1e-2)
    optimizer, generator = explorer.configure_optimizers(), seeded(1)
    for _ in range(200):
        loss, _ = explorer.loss(rows, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = explorer.generate(rows, generator=generator)["observation"]
    first, second = made[:, 0].flatten(), made[:, 1].flatten()
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.85


def test_weights_grow_with_the_coefficients_not_with_their_square():
    def weights(antennas: int) -> int:
        config = FullDuplexConfig(transmit_antennas=antennas, receive_antennas=antennas)
        problem = FullDuplexProblem(config)
        return sum(p.numel() for p in SENPNN(problem.row_sizes(), problem.place_sizes()).parameters())

    assert weights(64) < 5 * weights(32) < 25 * weights(16)
    assert weights(64) < 3e6


def test_phases_are_turned_where_they_are_arbitrary_and_nowhere_else():
    rows = rows_of(*draw(2000, seed=1, users=(1, 1)))
    assert {name for name, one in rows.items() if one.circular} == {"downlink", "uplink", "cross"}
    assert not any(one.circular for one in LINE_OF_SIGHT.rows(at_places(2, 1)).values())
    real = torch.view_as_complex(rows["downlink"].numbers.unflatten(-1, (-1, 2)))
    new = torch.view_as_complex(turned(rows["downlink"], seeded()).unflatten(-1, (-1, 2)))
    torch.testing.assert_close(new[..., 1] * new[..., 0].conj(), real[..., 1] * real[..., 0].conj())
    assert (new * real.conj()).mean().abs() < 0.1
    fixed = rows["self_interference"]
    assert turned(fixed, seeded()) is fixed.numbers
