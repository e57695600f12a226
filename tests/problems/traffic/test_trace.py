"""Recorded arrivals: what a file says, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2rl.common.errors import InputError
from d2rl.problems.traffic.trace import load_trace

PACKETS = [(0, 0, 100), (0, 3, 50), (2, 1, 7.5), (2, 1, 2.5), (4, 0, 0)]
EXPECTED = torch.tensor([[100.0, 0, 0, 50], [0, 0, 0, 0], [0, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def save_npz(path, **changed):
    slot, link, bits = (np.array(column) for column in zip(*PACKETS, strict=True))
    arrays = {"slot": slot, "link": link, "bits": bits} | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("form", ["csv", "spaced csv", "columns in another order", "npz"])
def test_what_arrives_in_a_slot_adds_up(tmp_path, form):
    path = tmp_path / ("trace.npz" if form == "npz" else "trace.csv")
    if form == "npz":
        save_npz(path)
    elif form == "csv":
        path.write_text("slot,link,bits\n" + "\n".join(f"{s},{k},{b}" for s, k, b in PACKETS))
    elif form == "spaced csv":
        path.write_text(
            "\ufeffslot, link, bits\r\n" + "\r\n".join(f"{s}, {k}, {b}" for s, k, b in PACKETS) + "\r\n\r\n"
        )
    else:
        path.write_text("bits,slot,link\n" + "\n".join(f"{b},{s},{k}" for s, k, b in reversed(PACKETS)))
    torch.testing.assert_close(load_trace(path, links=4, slots=5), EXPECTED)


BAD = {
    "slot,link,bits\n0,0,-5\n": "bits -5 of packet 0 must not be negative",
    "slot,link,bits\n0,0,5\n-1,0,5\n": "slot -1 of packet 1",
    "slot,link,bits\n9,4,5\n": "link 4 of packet 0 does not exist: the cell has links 0 to 3",
    "slot,link,bits\n9,0.5,5\n": "link 0.5 of packet 0 must be a whole number",
    "slot,link,bits\n8,0,5\n": "9 slots, too few for episodes of 10",
    "slot,link,bits\n99999999999,0,5\n": "must be below",
    "slot,link,bits\n9,0,nan\n": "is no number",
    "slot,link,bits\n9,0,many\n": "no number",
    "slot,link,bits\n9,0\n": "packet 0 has 2 values",
    "slot,link,bits\n": "0 of slot",
    "slot,link\n9,0\n": "has slot, link; a trace has slot, link, bits",
    "slot,link,bits,user\n9,0,1,2\n": "slot, link, bits, user",
    "9,0,1\n": "9, 0, 1",
    "": "nothing",
}


@pytest.mark.parametrize("content", BAD)
def test_a_trace_that_cannot_be_used_is_one_message(tmp_path, content):
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=BAD[content]) as caught:
        load_trace(path, links=4, slots=10)
    assert str(path) in str(caught.value)


BAD_ARRAYS = {
    "missing": ({"bits": None}, "has slot, link"),
    "lengths": ({"bits": np.ones(4)}, "5 of slot, 5 of link, 4 of bits"),
    "shape": ({"slot": np.zeros((5, 1))}, "one number for each packet"),
    "text": ({"link": np.array(list("abcde"))}, "one number for each packet"),
    "objects": ({"bits": np.array([None] * 5)}, "more than plain arrays"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_cannot_be_used_are_one_message(tmp_path, case):
    changed, message = BAD_ARRAYS[case]
    with pytest.raises(InputError, match=message):
        load_trace(save_npz(tmp_path / "trace.npz", **changed), links=4, slots=5)


@pytest.mark.parametrize("name", ["none.npz", "none.csv", "damaged.npz", "bytes.csv"])
def test_a_file_that_is_no_trace_is_one_message(tmp_path, name):
    if name in ("damaged.npz", "bytes.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=name):
        load_trace(tmp_path / name, links=4, slots=5)
