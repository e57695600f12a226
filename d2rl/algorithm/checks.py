"""What a configuration asks of a problem, refused before anything begins."""

from __future__ import annotations

import torch

from d2rl.algorithm.explorers import explorer_class
from d2rl.algorithm.explorers.action import IMITATING
from d2rl.algorithm.explorers.controls import Mix
from d2rl.algorithm.reports import check_room, splits_reports
from d2rl.algorithm.rewards import reward_case
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import AUTO, Config, EvaluationConfig, RunConfig, first_epoch
from d2rl.config.load import processes
from d2rl.problems import check_config, make_problems
from d2rl.problems.base import Generative, Measurable, Prioritised, Problem


def check_run(config: RunConfig) -> None:
    """Refuse what cannot be trained. :raises ConfigError: names the key and the remedy"""
    check_config(config)
    problem = make_problems(config)[0]
    check_algorithm(config, problem)
    check_room(config, problem)
    check_stored(config, problem)


def check_stored(config: RunConfig, problem: Problem) -> None:
    """Refuse an explorer of stored states where none are. :raises ConfigError: names the key and the remedy"""
    if config.stages.state is not None and isinstance(problem, Generative):
        explorer = explorer_class(config, "state")
        if issubclass(explorer, Mix):
            explorer.given(problem.held_out(1, torch.device("cpu"))[1])


def check_algorithm(config: RunConfig, problem: Problem) -> None:
    """Refuse what the problem has no part for.

    :raises ConfigError: names the key and the remedy
    """
    name = f"problem={config.problem}"
    reward_case(config.reward.case)
    if config.ddpg.analytic and not isinstance(problem, Measurable):
        raise ConfigError(
            f"ddpg.analytic=true differentiates the utility, and {name} has none in closed form; set "
            "ddpg.analytic=false."
        )
    if config.network.critic == "executed" and not hasattr(problem, "executed"):
        raise ConfigError(
            f"network.critic=executed sees what the power limit leaves of an action, and {name} has none; set "
            "network.critic=numbers."
        )
    if config.network.standardise and config.network.kind != "mlp":
        raise ConfigError(
            f"network.standardise=true is of network.kind=mlp, and this run has {config.network.kind}; set "
            "network.standardise=false."
        )
    if config.stages.state is not None and not isinstance(problem, Generative):
        raise ConfigError(
            f"stages.state={config.stages.state} begins SENPNN, and {name} has no rows to diffuse; set "
            "stages.state=null."
        )
    replaces = isinstance(problem, Generative) and problem.exogenous_rows
    if config.stages.state == AUTO and not (replaces and isinstance(problem, Measurable)):
        raise ConfigError(
            f"stages.state=auto compares what decisions reach in real and in synthetic states, and {name} cannot be "
            "put into a synthetic one; set stages.state to an epoch, or null."
        )
    if config.action.candidates > 1 and not problem.exogenous:
        raise ConfigError(
            f"action.candidates={config.action.candidates} measures several actions in one state, and in {name} the "
            "next state follows from the action; set action.candidates=1."
        )
    if config.stages.state is not None and config.action.objective in IMITATING and not replaces:
        raise ConfigError(
            f"action.objective={config.action.objective} imitates actions of real states, and in {name} SENPNN makes "
            "observations without actions; set action.objective=chain, or stages.state=null."
        )
    if config.ddpg.steps > 1 and config.ddpg.gamma == 0:
        raise ConfigError(
            f"ddpg.steps={config.ddpg.steps} sums discounted rewards, and ddpg.gamma=0 leaves nothing of the later "
            "ones; set ddpg.gamma above 0, or ddpg.steps=1."
        )
    if config.ddpg.steps > 1 and config.reward.share_reports:
        raise ConfigError("reward.share_reports=true and ddpg.steps above 1 exclude each other; leave one of them out.")
    if config.ddpg.steps > 1 and problem.exogenous:
        raise ConfigError(
            f"ddpg.steps={config.ddpg.steps} follows what an action leads to, and in {name} states do not depend on "
            "actions; set ddpg.steps=1."
        )
    if config.reward.share_reports and not hasattr(problem, "report_slots"):
        raise ConfigError(f"reward.share_reports=true, but {name} has no reports; leave it out.")
    generates = config.reward.generated and config.stages.reward is not None
    if generates and (config.ddpg.steps > 1 or config.reward.share_reports):
        raise ConfigError(
            "reward.generated=true makes the reward of one slot; set ddpg.steps=1 and reward.share_reports=false."
        )
    alone = config.action.candidates < 2
    if generates and alone and config.trainer.num_envs < 2 * processes(config.trainer):
        raise ConfigError(
            f"reward.generated=true needs action.candidates of 2 at least, or trainer.num_envs of 2 at least for each "
            f"process, got {config.action.candidates} and {config.trainer.num_envs}: generated rewards are trusted by "
            "how they rank the actions of one state, or where there is one alone those of states side by side."
        )
    if not config.state.measured:
        check_unmeasured(config, problem)
    splits = splits_reports(config, problem)
    if config.stages.reward == AUTO:
        check_reward_auto(config, splits)
    if splits and config.trainer.num_envs < 4 * processes(config.trainer):
        raise ConfigError(
            f"reward.generated=true needs trainer.num_envs of 4 at least for each process, got "
            f"{config.trainer.num_envs}: of some cells the reports are kept to judge what is generated of the others."
        )
    check_evaluation(config, problem)


def check_unmeasured(config: RunConfig, problem: Problem) -> None:
    """Refuse synthetic states without measured rewards where RENPNN cannot generate them.

    :raises ConfigError: names the key and the remedy
    """
    reward, state = config.stages.reward, first_epoch(config, "state")
    if state is None or not (isinstance(problem, Generative) and problem.exogenous_rows):
        raise ConfigError(
            "state.measured=false is of synthetic states in the place of real ones, and this run has none; leave it "
            "out."
        )
    if not problem.exogenous:
        raise ConfigError(
            f"state.measured=false is of rewards that nobody can simulate, and in problem={config.problem} what a "
            "decision in a synthetic state leads to is simulated all the same; leave it out."
        )
    if not config.reward.generated or not isinstance(reward, int) or reward > state or splits_reports(config, problem):
        raise ConfigError(
            f"state.measured=false has RENPNN generate the rewards of synthetic states; set reward.generated=true with "
            f"rewards of single slots, and stages.reward to {state} at most, got stages.reward={reward}."
        )
    if config.chi.policy == "fixed" and config.chi.maximum == 1:
        raise ConfigError(
            "state.measured=false and chi.policy=fixed with chi.maximum=1 leave no reward to learn from; lower "
            "chi.maximum."
        )


def check_reward_auto(config: RunConfig, splits: bool) -> None:
    """Refuse a choice of the reward stage that has one candidate, or nothing to choose by.

    :raises ConfigError: names the key and the remedy
    """
    if not config.reward.generated:
        raise ConfigError(
            "stages.reward=auto decides whether generated rewards take the place of measured ones, and "
            "reward.generated=false leaves it nothing to decide; set reward.generated=true, or stages.reward=0."
        )
    if config.ddpg.analytic:
        raise ConfigError(
            "stages.reward=auto compares RENPNN with the critic, and with ddpg.analytic=true none learns; set "
            "stages.reward=null."
        )
    if config.ddpg.gamma > 0 and not splits:
        raise ConfigError(
            f"stages.reward=auto compares how RENPNN and the critic rank rewards, and with ddpg.gamma="
            f"{config.ddpg.gamma:g} the critic tells more than them; set ddpg.gamma=0, or stages.reward to an epoch."
        )


def check_evaluation(config: RunConfig, problem: Problem) -> None:
    """Refuse ways to decide and to report that the problem has no part for.

    :raises ConfigError: names the key and the remedy
    """
    evaluation, plain = config.evaluation, EvaluationConfig()
    objective = getattr(problem, "objective", None)
    plain_sum = objective is None or objective.plain
    for key, possible in (
        ("best_of", isinstance(problem, Measurable)),
        ("ascend", isinstance(problem, Measurable) and plain_sum),
        ("refine", hasattr(problem, "refine")),
        ("priority_spread", isinstance(problem, Prioritised)),
        ("weights", isinstance(problem, Prioritised)),
        ("slots", isinstance(config, Config)),
    ):
        value, default = getattr(evaluation, key), getattr(plain, key)
        if value != default and not possible:
            raise ConfigError(
                f"evaluation.{key}={value} asks for what problem={config.problem} cannot do; set "
                f"evaluation.{key}={'null' if default is None else default}."
            )
