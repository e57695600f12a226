"""References are computed once, and a file that cannot be trusted is told and left alone."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch

from d2rl.common.notices import notice_once
from d2rl.problems import load_config, make_problems
from d2rl.problems.full_duplex import kept_decisions, references
from d2rl.problems.full_duplex.kept_decisions import DIRECTORY, cache_directory, kept, ship
from d2rl.wireless import link_rates, random_decision, wmmse
from d2rl.wireless.convergence import LIMIT


class Found:
    """A method that counts how often it is asked."""

    def __init__(self, channels):
        self.channels, self.times = channels, 0

    def __call__(self):
        self.times += 1
        return random_decision(self.channels, torch.Generator().manual_seed(3))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "cache"))
    notice_once.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def found(channels):
    return Found(channels)


@pytest.fixture
def ask(channels, found):
    def ask(method="best version=1", limit=10, some=channels, weight=1.0):
        return kept(method, limit, some, torch.full((16, 10), weight), found)

    return ask


def test_what_was_found_is_found_once(cache, ask, found):
    first, again = ask(), ask()
    assert found.times == 1
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other)
        assert one.dtype == other.dtype


def test_other_drops_weights_methods_and_longer_searches_are_found_anew(cache, ask, found, channels):
    ask()
    changed = channels.map(lambda tensor: tensor.clone())
    changed.cross[3, 1, 2] *= 1.1
    for given in ({"some": changed}, {"weight": 2.0}, {"method": "best version=2"}, {"method": "other version=1"}):
        before = found.times
        ask(**given)
        assert found.times == before + 1, given
    before = found.times
    ask(limit=5)
    assert found.times == before  # a search that was allowed more is as good
    ask(limit=20)
    assert found.times == before + 1
    ask(limit=20)
    assert found.times == before + 1


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "limits", "shape", "nan", "missing"])
def test_a_damaged_file_is_told_once_and_replaced(cache, ask, found, caplog, damage):
    good = ask()
    (path,) = cache.iterdir()
    content = dict(np.load(path))
    if damage in ("limits", "shape", "nan"):
        spoilt = {
            "limits": content["precoder"] * 3,
            "shape": content["precoder"][:2],
            "nan": np.nan * content["precoder"],
        }
        np.savez(path, **{**content, "precoder": spoilt[damage]})
    elif damage == "missing":
        np.savez(path, **{name: content[name] for name in ("method", "sums")})
    else:
        path.write_bytes({"empty": b"", "cut": path.read_bytes()[:-200], "text": b"no archive"}[damage])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for one, other in zip(ask(), good, strict=True):
                torch.testing.assert_close(one, other)
    assert found.times == 2
    told = f"the reference in {path} is damaged; it is computed anew"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_a_file_of_other_drops_under_this_name_is_not_used(cache, ask, found, caplog):
    ask()
    (path,) = cache.iterdir()
    content = dict(np.load(path))
    np.savez(path, **{**content, "sums": content["sums"] + 1})
    with caplog.at_level(logging.WARNING):
        ask()
    assert found.times == 2
    assert "belongs to other drops" in caplog.text


@pytest.mark.parametrize("inside", ["", "cache"], ids=["a file", "in a file"])
def test_a_cache_that_cannot_be_written_is_told_and_does_without(tmp_path, monkeypatch, ask, found, caplog, inside):
    notice_once.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "file" / inside))
    with caplog.at_level(logging.WARNING):
        ask(), ask()
    assert found.times == 2
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
    assert f"Set {DIRECTORY} to a folder that can be written." in caplog.text


def test_nothing_half_written_is_left(cache, ask, monkeypatch):
    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", broken)
    ask()
    assert list(cache.iterdir()) == []


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv(DIRECTORY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "d2rl" in cache_directory().parts
    assert os.fspath(cache_directory()) != os.environ.get(DIRECTORY, "")


def test_shipped_decisions_hold_for_drops_that_differ_in_the_last_digits(cache, ask, found, channels, monkeypatch):
    """As those that another processor draws; where a channel's sum cancels, none of its digits agrees."""
    monkeypatch.setattr(kept_decisions, "SHIPPED", cache.parent / "shipped")
    cancelling = channels.map(lambda tensor: tensor - tensor.flatten(1).mean(1).view(-1, *[1] * (tensor.dim() - 1)))
    ship("best version=1", 10, cancelling, torch.ones(16, 10), found())
    ask(some=cancelling.map(lambda tensor: tensor + 1e-6 * tensor.abs()))
    assert found.times == 1
    ask(some=cancelling.map(lambda tensor: tensor * 1.001))
    assert found.times == 2


@pytest.mark.parametrize("conf", ["full_duplex", "nlos", "imperfect_csi"])
def test_the_default_evaluation_sets_come_with_the_package(cache, conf, monkeypatch):
    """Converged, better than 200 iterations of WMMSE, and the best known better than that in every drop."""
    monkeypatch.setattr(references, "LIMIT", LIMIT)
    problem = make_problems(load_config([f"conf={conf}"]))[0]
    state = problem.frozen(256, 0, "cpu")
    searches = [one for one in references.reference_policies().values() if isinstance(one, references.Search)]
    for search in searches:
        monkeypatch.setattr(search, "_found", lambda _: pytest.fail("not shipped"))
    best, one = (link_rates(state.estimate, *search(state)).sum(-1) for search in searches)
    plain = link_rates(state.estimate[:8], *wmmse(state.estimate[:8], 100)).sum(-1)
    assert (best >= 0.999 * one).all()  # rounding leads a search elsewhere now and then
    assert best.mean() > 1.01 * one.mean()
    assert one[:8].mean() > 1.02 * plain.mean()
    assert not cache.exists()
