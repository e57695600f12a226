"""Radio problems: what an agent acts in. None of them knows of learning."""
