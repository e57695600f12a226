"""What a person sees of a command: its output, its one message, its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''
import signal, sys, time, warnings
from d2rl.common.command_line import run
from d2rl.common.errors import CheckpointError, InputError
from d2rl.config.load import check, load

def wait():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("ready", flush=True)
    while True:
        time.sleep(0.05)

def main(arguments: list[str]) -> None:
    """Does things.

    python tool.py conf=NAME [key=value ...]
    """
    config = load(arguments)
    check(config)
    name = config.logger.name
    if name == "checkpoint":
        raise CheckpointError("[red]runs/a[/red] does not fit")
    if name == "mistake":
        raise ZeroDivisionError("a mistake of the program")
    if name == "warn":
        # as Lightning does where it is imported
        warnings.formatwarning = lambda text, category, file, *_: f"{file}: {category.__name__}: {text}\\n"
        warnings.warn("a disk is full")
        warnings.warn("a number is not finite", RuntimeWarning)
    if name == "module":
        import my_part
    if name == "exit":
        sys.exit(7)
    if name == "wait":
        wait()
    if name == "talk":
        while True:
            print("y" * 1000)
    if name == "late":
        print("ready", flush=True)
        sys.stdin.read()
        print("nobody reads this")
    if name == "pipe":
        raise BrokenPipeError("a worker has gone")
    print(f"seed {config.seed}")

run(main)
'''


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    script = tmp_path_factory.mktemp("cli") / "tool.py"
    script.write_text(SCRIPT)
    return [sys.executable, str(script)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "PYTHONUNBUFFERED": ""}  # buffered output


def call(command: list[str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, env=ENVIRONMENT)


def test_a_command_that_succeeds_is_silent_about_itself(command):
    done = call(command, "seed=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "seed 3\n", "")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=x", "config error: seed cannot be 'x' (text); it must be a whole number at least 0.\n"),
        ("logger.name=checkpoint", "checkpoint error: [red]runs/a[/red] does not fit\n"),
    ],
)
def test_a_mistake_of_the_person_is_one_message_and_status_2(command, argument, message):
    done = call(command, argument)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_mistake_of_the_program_keeps_its_traceback(command):
    done = call(command, "logger.name=mistake")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_versions_for_a_report_are_one_line(command):
    done = call(command, "--version")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert f"torch {torch.__version__.partition('+')[0]}" in done.stdout
    assert done.stdout.startswith("Python 3.")


def test_a_warning_is_a_message_and_one_of_the_program_keeps_its_place(command):
    first, second, *_ = call(command, "logger.name=warn").stderr.splitlines()
    assert first == "a disk is full"
    assert second.endswith("RuntimeWarning: a number is not finite")
    assert not second.startswith("RuntimeWarning")


def test_a_module_of_the_working_folder_is_found(command, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my_part.py").write_text("")
    done = subprocess.run([*command, "logger.name=module"], cwd=tmp_path / "here", capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


def test_an_exit_status_of_its_own_is_kept(command):
    assert call(command, "logger.name=exit").returncode == 7


def test_an_interruption_is_one_word_and_status_130(command):
    arguments = [*command, "logger.name=wait"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=600)
    assert (process.returncode, message) == (130, "interrupted\n")


@pytest.mark.parametrize("name", ["talk", "late"])
def test_a_reader_that_leaves_is_no_error(command, name):
    arguments = [*command, f"logger.name={name}"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        message = process.stderr.read()
    assert (process.returncode, message) == (141, "")


def test_another_broken_pipe_is_a_mistake_of_the_program(command):
    assert "a worker has gone" in call(command, "logger.name=pipe").stderr


@pytest.mark.parametrize("arguments", [("--help",), ("seed=3", "-h"), ("nonsense", "--help")])
def test_help_says_how_to_call_it_and_lists_the_keys(command, arguments):
    done = call(command, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Does things.\n\npython tool.py conf=NAME [key=value ...]\n")
    assert "scenario.downlink_users" in done.stdout
    assert "\x1b" not in done.stdout
