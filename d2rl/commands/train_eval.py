"""What ``train.py`` and ``eval.py`` do.

PyTorch takes two seconds to import, Lightning three more: what needs them is imported inside the functions, after a
person's mistakes in the arguments are told and the first line is printed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2rl.common.command_line import USER_ERROR, own_keys, owns_process
from d2rl.common.errors import CheckpointError, ConfigError, Interrupted, RunError, UserError, counted, typed
from d2rl.common.files import write_json, writing
from d2rl.config.defaults import Config
from d2rl.config.key_use import refuse_unused
from d2rl.config.load import check, conf_name, processes, to_yaml
from d2rl.config.schema import leaves
from d2rl.problems import check_files, load_config, tied_keys
from d2rl.runs.run_directory import RUNS, RunDirectory, run_of

if TYPE_CHECKING:
    from d2rl.algorithm.policy import Policy
    from d2rl.evaluation.episodes import EpisodeEvaluation
    from d2rl.evaluation.evaluate import Evaluation

QUICK_LOOKS = {"smoke": "full_duplex"}  # short runs, and the one that each stands for


def train_command(arguments: list[str]) -> None:
    """d2rl-train conf=NAME [key=value ...] [run_dir=PATH] [resume=PATH | initial=PATH]

    Trains an agent; conf=NAME is a file in conf/. A resumed run goes on exactly where its last
    checkpoint was written, with that checkpoint's configuration and the overrides given here.
    initial=PATH is a new run that starts from the weights of another, such as after a change of the cell.
    """
    asked = load_config(arguments)
    if asked.resume is None:
        check(asked)
    if processes(asked.trainer) == 1:
        print("loading PyTorch", flush=True)
    config, checkpoint = configuration(arguments, asked)
    if owns_process():
        logging.getLogger("d2rl").setLevel(config.logger.level.upper())
    done = train_run(config, conf_name(arguments), checkpoint)
    if done is not None and conf_name(arguments) in QUICK_LOOKS:
        print(_full_run(QUICK_LOOKS[conf_name(arguments)], done[0]))


def train_run(
    config: Config, name: str, checkpoint: Path | None, quiet: bool = False
) -> tuple[RunDirectory, dict[str, Any]] | None:
    """Check a configuration, train, evaluate, and write all that a run leaves.

    :param name: of its directory, where the configuration gives none
    :param checkpoint: to go on from, exactly
    :param quiet: say only where it begins to write
    :returns: the run and what eval.json holds; None in a process that is not the first of several
    """
    from rich.console import Console

    from d2rl.algorithm.agent import D2RL
    from d2rl.algorithm.checks import check_run
    from d2rl.algorithm.compiled import check_compiler
    from d2rl.common.distributed import launch_rank, share
    from d2rl.common.host import training_device
    from d2rl.training.footprint import check_footprint
    from d2rl.training.memory import check_memory
    from d2rl.training.train import start_from, train

    check_run(config)
    # nothing is written before all that can be refused is known to be usable
    device = training_device(config.trainer)
    if config.trainer.compile:
        check_compiler(device)
    check_footprint(share(config) if device.type == "cuda" else config, device)
    check_files(config)
    resumed = str(checkpoint) if checkpoint else None
    if config.initial and not resumed:
        start_from(D2RL(config), config.initial)
    if launch_rank(config.trainer) > 0:
        _assist(config, resumed)
        return None
    memory = check_memory(config, device)
    run = RunDirectory.create(config, name)
    if not quiet:
        print(_begun(config, name), flush=True)
    elif config.logger.level in ("debug", "info"):
        print(f"{_begun(config, name)}, in {run.path}; its metrics.csv tells how far it is", flush=True)
    console = Console(quiet=quiet)
    told = f"what is not at its default (config.yaml has the rest):\n{to_yaml(config, changed=True)}"
    console.print(told, markup=False, highlight=False)
    console.print(memory, highlight=False)
    console.print(f"run directory: {run.path}", markup=False)
    result = train(config, run, resumed)
    assert result.evaluation is not None  # this is the first process
    from d2rl.report.learning_curve import learning_curve
    from d2rl.report.page import save_report_page
    from d2rl.report.terminal import results_table, wandb_notice

    report = _results(result.agent, result.evaluation)
    console.print(results_table(report, result.profiler.report()))
    try:
        write_json(run.evaluation, report)
        references = {name: report["policies"][name] for name in result.evaluation.references}
        curve = run.path / "learning_curve.png"
        learning_curve(run.metrics, references, curve, report["metric"], report.get("unit", ""))
    except OSError as error:
        raise RunError(
            f"training is complete and {run.last} is kept, but {run.path} cannot be written any more: "
            f"{error.strerror or error}; make room, then d2rl-eval {typed('ckpt', run.last)} writes the results."
        ) from None
    page = save_report_page(run.path, config, result.evaluation, report, run)
    console.print(f"learning curve: {curve}", markup=False)
    if page:
        console.print(f"report: {page}", markup=False)
    wandb_notice(console, run)
    return run, report


def _begun(config: Config, name: str) -> str:
    """What begins, once nothing of it is refused any more."""
    if config.resume:
        return f"going on with {config.resume}"
    epochs, updates = counted(config.trainer.epochs, "epoch"), counted(config.trainer.updates_per_epoch, "update")
    return f"training {name}, seed {config.seed}: {epochs} of {updates}"


def _full_run(name: str, run: RunDirectory) -> str:
    """What the run that a quick look stands for would take here."""
    plan = load_config([f"conf={name}"]).trainer
    updates = plan.epochs * plan.updates_per_epoch
    timing = json.loads(run.timing.read_text(encoding="utf-8"))
    seconds = updates * timing["seconds_per_update"]
    return (
        f"this was a quick look: conf={name} makes {updates:,} updates where this made {timing['updates']:,}, about "
        f"{seconds:.0f} s of training on {timing['device']}"
    )


def _assist(config: Config, checkpoint: str | None) -> None:
    """Take part in a run of several processes, of which the first one writes and speaks."""
    from d2rl.common.distributed import launch_rank, outlives
    from d2rl.training.train import train

    level, parent = logging.root.manager.disable, os.getppid()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            train(config, RunDirectory(RUNS), checkpoint)
    except UserError as error:  # the first one says it
        if isinstance(error, RunError) and launch_rank(config.trainer) == 1 and outlives(parent):
            raise  # it cannot any more
        sys.exit(USER_ERROR)
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
    finally:
        logging.disable(level)


def evaluate_command(arguments: list[str]) -> None:
    """d2rl-eval ckpt=PATH [out=DIR] [drops=256] [seed=0] [best_of=1] [ascend=0] [refine=0] [key=value ...]

    Evaluates a checkpoint beside the references on frozen drops; needs nothing but the checkpoint.
    ckpt=pretrained is the policy that comes with the package, ckpt=pretrained/any_load one for any number of users.
    """
    what = "PATH, a checkpoint, a run directory or a policy folder, or ckpt=pretrained"
    given, rest = own_keys(arguments, "d2rl-eval", ckpt=what)
    refuse_unused("eval", rest)
    print(f"evaluating {given['ckpt']}", flush=True)
    from d2rl.deploy.pretrained import load_policy

    policy, path = load_policy(given["ckpt"], rest)
    check_files(policy.config)
    evaluation, report = evaluate(policy)
    # a policy folder keeps the evaluation that it came with
    beside = RUNS / path.parent.name if path.suffix == ".safetensors" else run_of(path) or path.parent
    out = Path(given["out"]).expanduser() if "out" in given else beside
    with writing(f"out={out}", "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "eval.json", report)
    from rich.console import Console

    from d2rl.report.page import save_report_page
    from d2rl.report.terminal import results_table

    trained_in = run_of(path)
    page = save_report_page(out, policy.config, evaluation, report, RunDirectory(trained_in) if trained_in else None)
    console = Console()
    console.print(results_table(report))
    console.print(f"written: {out / 'eval.json'}", markup=False)
    if page:
        console.print(f"report: {page}", markup=False)


def evaluate(policy: Policy) -> tuple[Evaluation | EpisodeEvaluation, dict[str, Any]]:
    """A policy on the frozen drops, as its configuration asks, and what eval.json holds of it."""
    from d2rl.algorithm.checks import check_evaluation
    from d2rl.common.host import accelerator_device, left_as_found
    from d2rl.evaluation.evaluate import make_evaluation
    from d2rl.training.footprint import check_footprint

    config = policy.config
    device = accelerator_device(config.trainer.accelerator)
    check_footprint(config, device, training=False)
    check_evaluation(config, policy.problem)
    policy.to(device)
    with left_as_found(config.trainer.threads):
        evaluation = make_evaluation(config, policy.problem, device)
        return evaluation, _results(policy, evaluation)


def _results(policy: Any, evaluation: Evaluation | EpisodeEvaluation) -> dict[str, Any]:
    """What eval.json holds of a policy or an agent."""
    from d2rl.algorithm.decisions import decision_rule
    from d2rl.evaluation.evaluate import score_agent
    from d2rl.evaluation.scheduling import proportional_fair

    rule, e = decision_rule(policy.config), policy.config.evaluation
    report = score_agent(policy, evaluation, rule)
    if e.slots:
        report["proportional_fair"] = proportional_fair(policy, rule, e.drops, e.slots, e.seed)
    return report


def _refuse_policy(key: str, given: str) -> None:
    from d2rl.deploy.pretrained import policy_folder

    if policy_folder(given) is not None:
        raise CheckpointError(
            f"{key}={given} is a policy alone, without the critic and the replay of a training: it can be evaluated "
            "and exported. Give a run directory or a checkpoint."
        )


def configuration(arguments: list[str], asked: Config) -> tuple[Config, Path | None]:
    """The configuration of the run, and the checkpoint that it goes on from.

    :param arguments: of the command
    :param asked: the configuration that they alone ask for
    :raises ConfigError: both a run to go on with and one to start from
    :raises CheckpointError: nothing to go on with, a policy alone, or a key that what is stored is tied to
    """
    for key, given in (("resume", asked.resume), ("initial", asked.initial)):
        if given is not None:
            _refuse_policy(key, given)
    if asked.resume is None:
        return asked, None
    if asked.initial is not None:
        raise ConfigError(
            f"resume={asked.resume} goes on with a run and initial={asked.initial} starts a new one; leave one of them "
            "out."
        )
    from d2rl.training.checkpoint import open_checkpoint
    from d2rl.training.train import SHAPES

    path, content, saved = open_checkpoint(asked.resume, "last", "resume")
    config = replace(load_config(arguments, base={**asdict(saved), "run_dir": None}), resume=asked.resume)
    before, now = leaves(saved), leaves(config)
    begun = [f"stages.{name}" for name, on in content["d2rl"]["stages"].items() if on]
    bound = (  # what stored weights, replay and world are tied to
        "problem",
        *SHAPES,
        *("action.candidates", "reward.case", "reward.generated", "ddpg.gamma", "trainer.num_envs", "seed"),
    )
    for key in (*bound, *tied_keys(saved), *begun):
        if key in now and now[key].value != before[key].value:
            raise CheckpointError(
                f"{path} cannot go on with {key}={now[key].value}: what it holds was made with {before[key].value}; "
                "leave that key out, or train anew."
            )
    return config, path
