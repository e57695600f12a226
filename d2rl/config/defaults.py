"""Every default, with its meaning, unit, symbol of the paper and range; a YAML only says what differs.

``load`` in :mod:`d2rl.config.load` builds a :class:`Config` from a name in ``conf/`` and overrides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def option(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    word: str | None = None,
    also: str = "",
) -> Any:
    """A field with its meaning and its range: ``low <= x <= high``, ``above < x < below``, or choices.

    :param word: that a number may be instead
    :param also: what other libraries call it, for the message on an unknown key; blanks between
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices, "word": word}
    return field(default=default, metadata={"meaning": meaning, "also": also.split(), **limits})


@dataclass
class FullDuplexConfig:
    """The cell; values common in the full-duplex small-cell literature (3GPP TR 36.828 pico)."""

    transmit_antennas: int = option(
        8,
        "N_t, antennas that transmit at the base station",
        low=1,
        high=1024,
        also="num_antennas n_antennas num_tx n_tx nt",
    )
    receive_antennas: int = option(8, "N_r, antennas that receive at the base station", low=1, high=1024)
    downlink_users: int = option(
        6, "K_D; 0: uplink alone (half duplex)", low=0, high=1024, also="num_users n_users users num_ue k"
    )
    uplink_users: int = option(
        4, "K_U; 0: downlink alone (half duplex)", low=0, high=1024, also="num_users n_users users num_ue k"
    )
    cell_radius: float = option(100.0, "m", above=0, high=1e5)
    minimum_distance: float = option(10.0, "m, between a user and the base station", low=0.1)
    bandwidth: float = option(10.0, "MHz", low=1e-6, high=1e6)
    noise_density: float = option(-174.0, "dBm/Hz", low=-250, high=0, also="noise_power noise_psd n0 sigma2")
    noise_figure_downlink: float = option(9.0, "dB", low=0, high=60)
    noise_figure_uplink: float = option(5.0, "dB", low=0, high=60)
    bs_power: float = option(
        26.0, "P_BS, dBm", low=-100, high=100, also="p_max pmax tx_power max_power power_budget snr"
    )
    user_power: float = option(23.0, "P_UE, dBm", low=-100, high=100)
    path_loss: str = option("los", "base station to user, 3GPP TR 36.828", choices=("los", "nlos"))
    self_interference: float = option(-90.0, "residual self-interference after cancellation, dB", low=-200, high=0)
    self_interference_rician: float = option(1.0, "Rician K of the residual self-interference, dB", low=-100, high=100)
    rician: float | None = option(
        None, "Rician K of the user channels, dB; null is Rayleigh fading", low=-100, high=100
    )
    speed: float = option(3.0, "of the users, km/h", low=0, high=1e4)
    carrier: float = option(2.0, "GHz", low=1e-3, high=1e4, also="fc frequency carrier_frequency")
    slot: float = option(10.0, "time between two decisions, ms", low=1e-6, high=1e6)
    episode_length: int = option(10, "slots before the users are dropped anew (a truncation)", low=1)
    fixed_drop: int | None = option(
        None, "number of the place where users stay, fading alone varies; null: they are dropped anew", low=0
    )
    csi_error: float = option(0.0, "e of the channel estimate sqrt(1-e) h + sqrt(e) n", low=0, high=1)
    feedback: str = option(
        "dense",
        "what the learner is told: dense, the rate of every link; scalar, their weighted sum alone",
        choices=("dense", "scalar"),
    )
    stored_states: int = option(
        0, "train on this many stored states (scarce CSI); 0: new drops without end", low=0, high=10**7
    )
    channel_bank: str | None = option(
        None,
        "file of channel states to train and evaluate on; null: drawn channels",
        also="dataset data data_path channel_file channels from",
    )
    head: str = option(
        "structured", "what an action means", choices=("structured", "switching", "settling", "beamforming")
    )
    passes: int = option(
        1,
        "how often beams are made of an action by structured and switching: each time after the first the combiners "
        "that they spare are those of the beams before; steps in which settling lets a decision settle",
        low=1,
        high=100,
    )
    objective: str = option(
        "weighted_sum",
        "of link rates: their weighted sum, that with minimum_rate for each, the largest minimum, or the weighted sum "
        "over radiated and circuit power; a trained policy reaches the others in rounds",
        choices=("weighted_sum", "minimum", "max_min", "energy"),
    )
    circuit_power: float = option(
        30.0, "P_c, what the cell takes beside radiated power, dBm; of objective=energy", low=-100, high=100
    )
    minimum_rate: float = option(0.0, "of each link with objective=minimum, bit/s/Hz", low=0, high=100)
    antenna_power: float | None = option(
        None,
        "limit on the power of every antenna of the base station, 1 is bs_power / N_t; null: only their sum is limited",
        above=0,
        high=1024,
    )
    loads: str | None = option(
        None, "K_D+K_U of further cells that training visits in turn, @N for other antennas, such as 2+2,8+8,6+4@4"
    )
    priority_direction: float = option(0.0, "spread of the log weight common to a direction", low=0, high=3)
    priority_user: float = option(0.0, "spread of the log weight of every link", low=0, high=3)
    priority_zero: float = option(
        0.0, "share of the drops that want one direction or some links alone; the others weigh 0", low=0, high=1
    )


@dataclass
class NetworkConfig:
    """Actor, critic and the explorers' conditioning."""

    kind: str = option(
        "link_graph", "link_graph serves any number of users, mlp a fixed one", choices=("link_graph", "mlp")
    )
    width: int = option(
        32,
        "size of an embedding (link_graph) or eight times a hidden layer (mlp)",
        low=1,
        high=4096,
        also="hidden hidden_size hidden_dim hidden_units net_arch",
    )
    layers: int = option(
        2,
        "rounds of message passing (a critic of powers has none), or hidden layers",
        low=1,
        high=64,
        also="hidden_layers n_layers num_layers",
    )
    standardise: bool = option(
        False, "of an mlp: inputs, and rewards of entities, as deviations from the first ones in standard deviations"
    )
    critic: str = option(
        "powers",
        "how Q sees an action: the powers it makes links receive, its numbers, or those left by the power limit",
        choices=("powers", "numbers", "executed"),
    )


@dataclass
class DDPGConfig:
    """The learner that every variant shares."""

    gamma: float = option(0.0, "discount; channels do not depend on actions, so 0 is best", low=0, below=1)
    steps: int = option(1, "n, slots whose rewards are summed before a value takes over", low=1, high=1000)
    batch: int = option(32, "states in an update of the policy", low=1, high=10**6, also="batch_size minibatch_size")
    critic_batch: int = option(
        64, "states in an update of the critic", low=1, high=10**6, also="batch_size minibatch_size"
    )
    replay: int = option(
        8192,
        "states kept of each load",
        low=1,
        high=10**9,
        also="buffer buffer_size memory memory_size replay_size capacity",
    )
    actor_rate: float = option(8e-3, "learning rate of the policy", above=0, high=1, also="lr actor_lr")
    critic_rate: float = option(1e-2, "learning rate of the critic", above=0, high=1, also="lr critic_lr")
    target_rate: float = option(0.01, "tau, step of the target networks", above=0, high=1, also="soft_tau polyak")
    warmup_updates: int = option(5, "updates at the start in which the critic alone learns", low=0)
    warmup_critic_updates: int = option(8, "updates of the critic in each of them", low=1)
    noise: float = option(
        0.6,
        "standard deviation of the Gaussian exploration at the start",
        low=0,
        high=10,
        also="sigma exploration_noise action_noise policy_noise",
    )
    noise_end: float = option(0.1, "the same at the end of training", low=0, high=10)
    noise_correlation: float = option(
        0.0, "of that noise with the one of the slot before; 0: none, near 1 it leads far away", low=0, below=1
    )
    rate_end: float = option(0.1, "learning rates at the end of training, as a part of the start", above=0, high=1)
    analytic: bool = option(False, "differentiate the simulator instead of a critic (the ceiling, no RL)")
    saturation_penalty: float = option(1e-2, "weight of the squared output before tanh", low=0, high=1e3)
    reward_scale: float = option(10.0, "bit/s/Hz of sum rate that count as one", low=1e-3, high=1e6)


@dataclass
class AENPNNConfig:
    """Action explorer (Mode I)."""

    explorer: str = option("aenpnn", "aenpnn, or MODULE:CLASS")
    steps: int = option(6, "P, denoising steps", low=1, high=1000, also="diffusion_steps n_timesteps num_timesteps")
    objective: str = option(
        "chain",
        "chain: ascend Q at the end of the chain; weighted: regress on good candidates; mixed: both; flow: along a "
        "straight path, regress on even actions by their Q, which keeps equally good ones of few numbers (samples=16)",
        choices=("chain", "weighted", "mixed", "flow"),
    )
    samples: int = option(
        2,
        "M_c, actions of one state that ascend Q by the chain objective, or that flow weighs; better ones weigh more",
        low=1,
        high=1024,
    )
    calm_first: bool = option(
        False, "the first action drawn for a state comes of no noise, and the chain objective counts it by itself"
    )
    exchange: bool = option(
        False, "in every reverse step links see the mean of each other's hidden features, beside that of their numbers"
    )
    gradient_steps: int = option(1, "last steps of the chain that are trained, in turn, by the chain objective", low=1)
    candidates: int = option(4, "M_a, actions measured for one state", low=1, high=1024)
    temperature: float = option(2.0, "of the weights among candidates, in standard deviations", low=1e-3, high=1e3)
    weighted_scale: float = option(1.0, "weight of the regression beside the chain", low=0, high=1e3)
    sampler: str = option("ancestral", "reverse chain", choices=("ancestral", "ddim"))


@dataclass
class RENPNNConfig:
    """Reward explorer (Mode I)."""

    explorer: str = option(
        "renpnn",
        "renpnn; regression: a control without diffusion, means and variances with Gaussian draws; or MODULE:CLASS",
    )
    case: str = option(
        "designed",
        "raw: the weighted sum; designed: one for each entity, beyond a simple decision; each: one for each entity; "
        "_gdm: generated, out of a report for each entity and slot that it is of",
    )
    generated: bool = option(False, "learn from rewards that RENPNN generates, where they can be trusted")
    share_reports: bool = option(
        False, "give each slot an equal share of the report that it is part of, instead of all to the last"
    )
    steps: int = option(6, "P, denoising steps", low=1, high=1000)
    rate: float = option(3e-3, "learning rate", above=0, high=1)
    every: int = option(4, "updates of the agent for each update of the explorer", low=1)
    updates: int = option(1, "updates of the explorer each time", low=1, high=1000)
    windows: int = option(
        32,
        "reports whose windows it learns from in an update, where reports are told; more where they are short",
        low=1,
        high=10**5,
    )
    samples: int = option(1, "rewards generated for one state and action", low=1, high=1024)
    risk: str = option("mean", "what is taken of the generated rewards", choices=("mean", "cvar"))
    quantile: float = option(0.25, "worst part of them that cvar averages", above=0, high=1)
    guard: float = option(0.8, "rank correlation below which measured rewards are used instead", low=-1, high=1)

    def __post_init__(self) -> None:
        """The paper's names of its cases, ``raw_gdm`` and ``designed_gdm``, stand for a case that is generated."""
        if self.case.endswith("_gdm"):
            self.case, self.generated = self.case.removesuffix("_gdm"), True


@dataclass
class SENPNNConfig:
    """State explorer (Mode II)."""

    explorer: str = option("senpnn", "senpnn, MODULE:CLASS, or a control without diffusion: gaussian, noise, mix, turn")
    steps: int = option(6, "P, denoising steps", low=1, high=1000)
    corrupt: int = option(0, "step p to which a real state is corrupted; 0 is P", low=0)
    rate: float = option(1e-2, "learning rate", above=0, high=1)
    decay: float = option(0.0, "weight decay, against learning few states by heart", low=0, high=10)
    width: int = option(64, "of its hidden layers", low=1, high=4096)
    condition: str = option(
        "auto",
        "what a row is conditioned on beside its mean gain: auto: where its user is, if the states tell; place: refuse "
        "states that do not tell; gain: nothing",
        choices=("auto", "place", "gain"),
    )
    every: int = option(8, "updates of the agent for each update of the explorer", low=1)
    measured: bool = option(
        True, "whether the simulator tells rewards of synthetic states; false: RENPNN generates them, as in the paper"
    )


@dataclass
class ChiConfig:
    """State replacement (SENPNN)."""

    policy: str = option("threshold", "how chi moves", choices=("fixed", "threshold", "adaptive"))
    eta: float = option(0.01, "eta, step of chi", above=0, high=1)
    maximum: float = option(0.5, "M, largest probability of replacement", low=0, high=1)
    threshold: float = option(0.35, "T, loss of SENPNN below which chi grows; must exceed the loss's floor", above=0)


STAGES = ("action", "reward", "state")  # in the order in which they may begin
AUTO = "auto"  # a number decides whether a stage begins


@dataclass
class StagesConfig:
    """Staged integration: the epoch at which each explorer begins; null is never.

    auto: after the first fifth of the epochs, if a number measured there predicts that it pays.
    """

    action: int | None = option(0, "AENPNN replaces the deterministic actor", low=0)
    reward: int | str | None = option(
        0, "RENPNN's reward case replaces the raw sum rate; auto: if that is predicted to pay", low=0, word=AUTO
    )
    state: int | str | None = option(
        None, "SENPNN begins to replace states; auto: if that is predicted to pay", low=0, word=AUTO
    )
    plateau: int = option(0, "begin the next stage earlier when this many evaluations brought nothing; 0: never", low=0)


@dataclass
class TrainerConfig:
    """Length, hardware and speed."""

    epochs: int = option(
        10,
        "length of the run",
        low=1,
        also="max_epochs num_epochs total_timesteps max_steps n_episodes num_episodes episodes iterations",
    )
    updates_per_epoch: int = option(100, "updates in an epoch", low=1, also="total_timesteps max_steps steps_per_epoch")
    updates_per_step: int = option(10, "updates in one training step, after which metrics are logged", low=1)
    updates_per_slot: int = option(
        5, "updates learned from the replay for each slot of the cells; a training step begins with one", low=1
    )
    num_envs: int = option(
        32, "cells simulated side by side, over all processes", low=1, high=10**6, also="n_envs workers num_workers"
    )
    accelerator: str = option("auto", "device", choices=("auto", "cpu", "gpu"), also="gpu gpus cuda use_cuda device")
    strategy: str = option("auto", "auto: ddp where there are several devices or nodes", choices=("auto", "ddp"))
    devices: int = option(1, "processes on each node, one for each GPU", low=1, high=1024)
    nodes: int = option(1, "machines", low=1, high=10**4, also="num_nodes")
    precision: str = option(
        "32",
        "of the networks; physics is always fp32 or better",
        choices=("32", "bf16"),
        also="amp fp16 mixed_precision",
    )
    cuda_graphs: bool = option(
        False, "on one GPU: capture each kind of update once as a CUDA graph, and replay it afterwards"
    )
    compile: bool = option(
        False,
        "make kernels of the losses by torch.compile: minutes before the first updates, kept for later runs; slower on "
        "a CPU",
        also="torch_compile jit inductor",
    )
    checkpoint_every: int = option(5, "epochs between two checkpoints", low=1)
    threads: int = option(
        1,
        "CPU threads of a training and of its evaluations; another number rounds otherwise, and gives another run; the "
        "small tensors gain nothing from more; 0: as many as torch takes, one per core",
        low=0,
        high=1024,
    )
    progress: bool = option(True, "show a progress bar")


@dataclass
class EvaluationConfig:
    """The frozen evaluation set."""

    every: int = option(
        1, "training steps between two evaluations", low=1, also="eval_every eval_freq eval_interval val_check_interval"
    )
    drops: int = option(
        256,
        "states, the same for every policy",
        low=1,
        high=10**7,
        also="eval_episodes n_eval_episodes num_eval_episodes",
    )
    seed: int = option(0, "of the evaluation drops", low=0)
    best_of: int = option(1, "N, candidates of one decision", low=1, high=10**5)
    ascend: int = option(
        0, "steps of the chosen action up the gradient of the known weighted utility on its numbers", low=0, high=10**4
    )
    refine: int = option(0, "K, iterations of accelerated WMMSE from the chosen action", low=0, high=10**4)
    priority_spread: float = option(
        0.0, "candidates after the first are made for weights changed by this spread", low=0, high=3
    )
    noise: float = option(0.0, "Gaussian noise on candidates after the first (a control)", low=0, high=10)
    weights: str | None = option(None, "priority of every link, K_D + K_U numbers with commas; null: all 1")
    references: bool = option(True, "over episodes: judge schedulers, too, which may take minutes")
    slots: int = option(0, "length of a proportional-fair schedule to report; 0: none", low=0, high=10**6)


@dataclass
class LoggerConfig:
    """Where metrics go; metrics.csv is always written."""

    mode: str = option(
        "offline",
        "Weights & Biases",
        choices=("online", "offline", "disabled"),
        also="wandb use_wandb track log offline",
    )
    project: str = option("d2rl", "W&B project")
    name: str | None = option(None, "W&B run name")
    tensorboard: bool = option(False, "write TensorBoard event files, too")
    level: str = option(
        "info",
        "least of the messages that the terminal shows",
        choices=("debug", "info", "warning", "error"),
        also="verbose verbosity debug log_level quiet",
    )


@dataclass
class RunConfig:
    """Everything a run needs but the problem's own section."""

    problem: str = option("full_duplex", "what the agent acts in: full_duplex, gymnasium, ris, or MODULE:CLASS")
    network: NetworkConfig = field(default_factory=NetworkConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    action: AENPNNConfig = field(default_factory=AENPNNConfig)
    reward: RENPNNConfig = field(default_factory=RENPNNConfig)
    state: SENPNNConfig = field(default_factory=SENPNNConfig)
    chi: ChiConfig = field(default_factory=ChiConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = option(0, "of everything but the evaluation drops", low=0)
    run_dir: str | None = option(
        None,
        "where the run writes; null: runs/<conf>-<time>",
        also="log_dir logdir output_dir out_dir save_dir save_path out output",
    )
    resume: str | None = option(
        None,
        "checkpoint or run directory to continue exactly",
        also="ckpt ckpt_path checkpoint checkpoint_path load resume_from",
    )
    initial: str | None = option(
        None,
        "checkpoint or run directory whose weights a new run starts from; null: drawn anew",
        also="ckpt pretrained load weights finetune",
    )


def first_epoch(config: RunConfig, stage: str) -> int | None:
    """Epoch at which a stage begins, or with auto may begin; None is never."""
    value = getattr(config.stages, stage)
    return max(1, config.trainer.epochs // 5) if value == AUTO else value


@dataclass
class Config(RunConfig):
    """A run on the full-duplex cell."""

    scenario: FullDuplexConfig = field(default_factory=FullDuplexConfig)
