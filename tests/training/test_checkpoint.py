"""Checkpoint files: whole or of before, checked before they are read, and data only."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from d2rl.common.errors import CheckpointError
from d2rl.training.checkpoint import COMMENT, FORMAT, CheckpointFiles, load_checkpoint, write_checkpoint


def content(**ours) -> dict:
    kept = {"config": {}, "stages": {}, "updates": 3, "environment_steps": 6}
    return {"state_dict": {"weight": torch.arange(50.0)}, "epoch": 1, "d2rl": {**kept, **ours}}


@pytest.fixture
def path(tmp_path) -> Path:
    write_checkpoint(content(), tmp_path / "some.ckpt")
    return tmp_path / "some.ckpt"


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_what_is_read_is_what_was_written(path):
    found = load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], torch.arange(50.0))
    assert found["d2rl"] == {**content()["d2rl"], "format": FORMAT}


def test_the_file_stays_one_that_others_can_read(path):
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert zipfile.ZipFile(path).testzip() is None


def test_every_flipped_bit_is_noticed(path):
    good, draw = path.read_bytes(), random.Random(0)
    places = [*draw.sample(range(len(good)), 300), *range(len(good) - COMMENT - 4, len(good)), *range(8)]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"some\.ckpt is (damaged|truncated)"):
            load_checkpoint(path)
    path.write_bytes(good)
    load_checkpoint(path)


def test_every_shorter_file_is_noticed(path):
    good = path.read_bytes()
    for length in (*range(0, len(good) - 1, 97), *range(len(good) - COMMENT - 2, len(good))):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"some\.ckpt is truncated"):
            load_checkpoint(path)


@pytest.mark.parametrize("place", ["d2rl", "state_dict", "callbacks"])
def test_code_under_a_valid_checksum_is_not_run(tmp_path, place):
    trace, path = tmp_path / "trace", tmp_path / "evil.ckpt"
    evil = content()
    evil[place] = {**evil.get(place, {}), "evil": Evil(trace)}
    write_checkpoint(evil, path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run
    trace.unlink()
    with pytest.raises(CheckpointError, match=r"evil\.ckpt holds more than plain data \(.*\) .* nothing of it was run"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError):
        CheckpointFiles().load_checkpoint(path, weights_only=False)  # whatever a caller asks for
    assert not trace.exists()


def test_a_bare_pickle_is_not_run(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(CheckpointError, match="not a checkpoint of d2rl"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("other", [None, FORMAT + 1, "1"])
def test_another_format_is_refused_by_its_number(tmp_path, monkeypatch, other):
    monkeypatch.setattr("d2rl.training.checkpoint.FORMAT", other)
    write_checkpoint(content(), tmp_path / "some.ckpt")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"has checkpoint format {other} and this version of d2rl reads format 1"):
        load_checkpoint(tmp_path / "some.ckpt")


@pytest.mark.parametrize("wrong", [{"config": 3}, {"updates": "many"}, {"stages": None}])
def test_a_part_of_another_kind_is_named(tmp_path, wrong):
    write_checkpoint(content(**wrong), tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=rf"some\.ckpt lacks {next(iter(wrong))}"):
        load_checkpoint(tmp_path / "some.ckpt")


def test_a_failed_write_leaves_the_checkpoint_of_before_and_no_other(path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write_checkpoint(content(evil=lambda: None), path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(content(updates=4), path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["some.ckpt"]


def test_a_disk_that_fills_within_a_weight_is_an_oserror_whatever_torch_makes_of_it(path):
    resource = pytest.importorskip("resource", reason="limits of a process are of Unix")
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint({**content(), "state_dict": {"weight": torch.zeros(10**6)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["some.ckpt"]
