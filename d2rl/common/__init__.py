"""What every level may use: errors, processes, timing, the command line."""
