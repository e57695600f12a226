"""DDPG, TD3 and SAC of Stable-Baselines3 on the same world: time to each quality, final rate, latency.

    python benchmarks/peers.py algorithms=ddpg,td3,sac seeds=3 seconds=240 out=DIR

Needs the extra ``peers``. ``--help`` lists every key.
"""

from d2rl.benchmark.peer_config import PeersConfig
from d2rl.benchmark.peers import peers_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(peers_command, PeersConfig)
