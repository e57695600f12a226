"""Where a run writes: run directory and loggers."""
