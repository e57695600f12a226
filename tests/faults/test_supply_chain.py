"""What is installed is what was tested: pins, hashes, and no release that is known to be bad."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BAD = {"lightning": ("2.6.2", "2.6.3")}


def locked(*names: str) -> dict[str, list[tuple[str, int]]]:
    """Versions of every package in lock files, each with its number of hashes."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name in names:
        for block in re.split(r"(?m)^(?=\S)", (ROOT / name).read_text()):
            if block:
                pin = re.match(r"([\w.-]+)==([\w.+!]+)", block)
                assert pin, f"{name}: not a pin: {block.splitlines()[0]}"
                found.setdefault(pin[1], []).append((pin[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))))
    return found


def direct(texts: list[str]) -> list[str]:
    """Requirements as written, those of the project's own extras in place of their names."""
    found = []
    for text in texts:
        wanted = Requirement(text)
        own = wanted.name == PROJECT["name"]
        found += direct([one for extra in sorted(wanted.extras) for one in EXTRAS[extra]]) if own else [text]
    return found


EVERYTHING = locked("requirements.lock", "requirements-cuda.lock")


@pytest.mark.parametrize("text", direct([*PROJECT["dependencies"], *EXTRAS["dev"]]))
def test_every_dependency_is_locked_to_a_version_that_it_allows(text):
    wanted = Requirement(text)
    versions = EVERYTHING[canonicalize_name(wanted.name)]
    assert all(version in wanted.specifier for version, _ in versions)


def test_every_pin_has_a_hash():
    assert [name for name, pins in EVERYTHING.items() if not all(hashes for _, hashes in pins)] == []


def test_the_tested_versions_are_the_locked_ones():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line:
            name, version = line.split("==")
            pins = EVERYTHING.get(canonicalize_name(name))  # an extra's library is not in the lock
            assert pins is None or version in [pin for pin, _ in pins], name


def test_known_bad_releases_are_excluded_by_name_and_not_locked():
    for name, versions in BAD.items():
        (wanted,) = [one for one in map(Requirement, PROJECT["dependencies"]) if one.name == name]
        for version in versions:
            assert f"!={version}" in str(wanted.specifier).split(",")
            assert version not in [pin for pin, _ in EVERYTHING[name]]


def test_the_locks_name_no_registry_and_no_place():
    for name in ("requirements.lock", "requirements-cuda.lock", "constraints.txt", "Makefile"):
        assert re.findall(r"https?:|file:|--(?:extra-)?index|--find-links|--trusted", (ROOT / name).read_text()) == []


def test_installation_insists_on_hashes():
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    needed = [line for line in installs if "uv" not in line.split()]
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation" in line for line in needed)
    assert len(needed) == 3


def test_a_file_with_another_hash_is_refused(tmp_path):
    """pip, as the Makefile calls it."""
    (tmp_path / "wrong-1.0-py3-none-any.whl").write_bytes(b"not what was locked")
    (tmp_path / "wrong.lock").write_text(f"wrong==1.0 --hash=sha256:{'0' * 64}\n")
    options = [
        "--require-hashes",
        "--no-deps",
        "--no-index",
        f"--find-links={tmp_path}",
        "--target",
        str(tmp_path / "to"),
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "--requirement", str(tmp_path / "wrong.lock")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "to").exists()
