"""``d2rl-tune conf=NAME trials=N``: a search for better values of some keys with Optuna."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.checks import check_run
from d2rl.benchmark.runner import held
from d2rl.commands.search_space import Space, read_space
from d2rl.common.errors import ConfigError, InputError, TrainingError, UserError, first_line, typed
from d2rl.common.files import write_text
from d2rl.config.defaults import option
from d2rl.config.load import conf_name, load, nested
from d2rl.config.schema import leaves
from d2rl.problems import load_config
from d2rl.runs.run_directory import RUNS, RunDirectory
from d2rl.training.train import train

DATABASE, BEST = "study.db", "best.yaml"
OWN_DROPS = ("evaluation.seed=77", "seed=100")  # those of reported results are not to be tuned on
ALONE = ("logger.mode=disabled", "trainer.progress=false")
PATIENCE = 4  # trials before one may be ended early


@dataclass
class TuneConfig:
    """What d2rl-tune takes beside the keys of the configuration that it tunes."""

    space: str = option("rates", "file in conf/tune/, or a path: what each key may become")
    trials: int = option(20, "trainings in all, with those of a search that goes on", low=1, high=10**5)
    out: str | None = option(None, "where it writes, and goes on; null: runs/tune-<conf>-<space>")
    sampler_seed: int = option(0, "of what is tried", low=0)


class EarlyEnd(Callback):
    """Reports the objective after every epoch, and ends a training that is worse than most were at that point.

    :param report: of (objective, epoch); whether to end
    """

    def __init__(self, report: Callable[[float, int], bool]):
        self.report = report

    def on_train_epoch_end(self, trainer: L.Trainer, agent: D2RL) -> None:
        value = trainer.callback_metrics.get("objective")
        if value is not None and self.report(float(value), trainer.current_epoch):
            trainer.should_stop = True


def tune_command(arguments: list[str]) -> None:
    """d2rl-tune conf=NAME [space=rates] [trials=20] [out=DIR] [sampler_seed=0] [section.key=value ...]

    Searches the keys of conf/tune/SPACE.yaml for the values with which conf=NAME reaches the best objective,
    by Optuna. Poor trainings end early. The search is kept in OUT/study.db: the same command goes on with it,
    after an interruption or with more trials. The best values are written to OUT/best.yaml, for conf=OUT/best.yaml.
    """
    own = leaves(TuneConfig)
    mine = [one for one in arguments if one.partition("=")[0] in own]
    rest = [one for one in arguments if one not in mine]
    asked, name = load(mine, TuneConfig), conf_name(rest)
    base = [*OWN_DROPS, *rest, *ALONE]
    config = load_config(base)
    space = read_space(asked.space, leaves(config))
    check_run(config)
    out = Path(asked.out or RUNS / f"tune-{name}-{Path(asked.space).stem}").expanduser()
    with held(out):
        study = _study(out, asked.sampler_seed, {"space": space, "arguments": base})
        _search(study, asked.trials, base, space, out, Console())


def _search(study: Any, trials: int, base: Sequence[str], space: Space, out: Path, console: Console) -> None:
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    done = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a search that was killed
        study.tell(trial.number, state=TrialState.FAIL)

    def objective(trial: Any) -> float:
        values = {key: _suggested(trial, key, bounds) for key, bounds in space.items()}
        value, ended = _trained(trial, load_config([*base, *(f"{k}={v}" for k, v in values.items())]), out)
        said = f"{value:.3f}" + (", ended early" if ended else "")
        console.print(f"trial {trial.number}: {said}  {_line(values)}", markup=False, highlight=False, soft_wrap=True)
        if ended:
            raise TrialPruned
        return value

    left = trials - len(study.get_trials(states=done))
    if left > 0:
        study.optimize(objective, n_trials=left, catch=(ConfigError, TrainingError))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingError(f"none of {len(study.trials)} trials came to its end; widen or move the space.")
    best = study.best_trial
    write_text(out / BEST, _best_yaml(base, best.params, f"trial {best.number}, objective {best.value:.4g}"))
    console.print(f"best: trial {best.number}, {best.value:.3f}  {_line(best.params)}", markup=False, soft_wrap=True)
    console.print(f"written: {out / BEST}; use it with {typed('conf', out / BEST)}", markup=False, soft_wrap=True)


def _trained(trial: Any, config: Any, out: Path) -> tuple[float, bool]:
    """The last objective of one training, and whether it was ended early; what it leaves but weights stays."""
    check_run(config)
    latest, ended = float("nan"), False

    def report(value: float, epoch: int) -> bool:
        nonlocal latest, ended
        latest = value
        trial.report(value, epoch)
        ended = trial.should_prune() and epoch + 1 < config.trainer.epochs
        return ended

    folder = out / f"trial-{trial.number:04d}"
    config = replace(config, run_dir=str(folder))
    run = RunDirectory.create(config, folder.name)
    try:
        train(config, run, callbacks=[EarlyEnd(report)])
    finally:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return latest, ended


def _suggested(trial: Any, key: str, bounds: dict[str, Any]) -> Any:
    if "choices" in bounds:
        return trial.suggest_categorical(key, bounds["choices"])
    suggest = trial.suggest_int if isinstance(bounds["low"], int) else trial.suggest_float
    return suggest(key, **bounds)


def _study(out: Path, seed: int, about: dict[str, Any]) -> Any:
    """The search in this folder, begun or gone on with.

    :raises ConfigError: Optuna is not installed, or the folder holds another search
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("d2rl-tune needs Optuna, which is not installed: pip install 'd2rl[tune]'.") from None
    optuna.logging.set_verbosity(logging.ERROR)
    about = json.loads(json.dumps(about))
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{(out / DATABASE).resolve()}",
            study_name="d2rl",
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PATIENCE, n_warmup_steps=1),
        )
        before = study.user_attrs.get("about", about)
    except UserError:
        raise
    except Exception as error:
        raise InputError(
            f"{out / DATABASE} cannot be used ({first_line(error)}); choose another out, or remove it."
        ) from None
    if before != about:
        part = next(name for name in about if before.get(name) != about[name])
        raise ConfigError(f"out={out} holds a search with another {part}: {before.get(part)}; choose another out.")
    study.set_user_attr("about", about)
    return study


def _best_yaml(base: Sequence[str], best: dict[str, Any], comment: str) -> str:
    """What stands over the configuration that was tuned."""
    conf = [one.partition("=")[2] for one in base if one.startswith("conf=")]
    given = {key: text for key, _, text in (one.partition("=") for one in base) if key not in ("conf", "run_dir")}
    for one in (*OWN_DROPS, *ALONE):  # of the search, not of what it found
        key, _, text = one.partition("=")
        if given.get(key) == text:
            del given[key]
    content = {"defaults": conf[-1]} if conf else {}
    return f"# {comment}\n" + yaml.safe_dump({**content, **nested({**given, **best})}, sort_keys=False)


def _line(values: dict[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )
