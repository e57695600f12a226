"""``python -m d2rl.dashboards``; see :mod:`d2rl.commands.workspace`."""

from d2rl.commands.workspace import DashboardsConfig, dashboards_command
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(dashboards_command, DashboardsConfig)
