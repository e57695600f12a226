"""D2RL: diffusion-based deep reinforcement learning for wireless resource allocation."""
