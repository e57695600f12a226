"""Make a policy folder of a checkpoint: ``python -m d2rl.pretrained ckpt=PATH out=DIR [drops=256] [seed=0]``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from d2rl.commands.train_eval import evaluate
from d2rl.common.command_line import own_keys
from d2rl.common.files import writing
from d2rl.config.key_use import refuse_unused
from d2rl.deploy.pretrained import load_policy, save_policy
from d2rl.report.terminal import results_table


def pretrained_command(arguments: list[str]) -> None:
    """python -m d2rl.pretrained ckpt=PATH out=DIR [drops=256] [seed=0] [key=value ...]

    Evaluates a checkpoint and writes the folder that ckpt=DIR can use from then on: policy.safetensors,
    config.yaml and eval.json.
    """
    needed = {"ckpt": "PATH, a checkpoint or a run directory", "out": "DIR, the folder to write"}
    given, rest = own_keys(arguments, "python -m d2rl.pretrained", **needed)
    refuse_unused("eval", rest)
    policy, _ = load_policy(given["ckpt"], rest)
    (_, report), out = evaluate(policy), Path(given["out"]).expanduser()
    with writing(f"out={out}", "choose another folder"):
        path = save_policy(policy, report, out)
    console = Console()
    console.print(results_table(report))
    console.print(f"written: {path} ({path.stat().st_size / 1e3:.0f} kB)", markup=False, soft_wrap=True)
