"""The algorithm: agent, explorers, networks, replay. It knows no physics."""
