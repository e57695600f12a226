"""The loads that one training visits: cells of other numbers of users, and perhaps of antennas."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from d2rl.common.errors import ConfigError, counted

if TYPE_CHECKING:
    from d2rl.config.defaults import Config, FullDuplexConfig

LOAD = re.compile(r"\s*(\d{1,9})\s*\+\s*(\d{1,9})\s*(?:@\s*(\d{1,9})\s*)?")
LIMIT = 1024  # of users and of antennas, as for the scenario's own


def cells_of(scenario: FullDuplexConfig) -> list[FullDuplexConfig]:
    """The scenario's own cell, then one for each other of ``scenario.loads``; none of them has loads.

    Loads may come to the same cell, such as 8+8 and 8+8@4 where a policy for many loads is asked in a cell of 4
    antennas; it is there once.

    :raises ConfigError: what is no load, is out of range, or stands there twice
    """
    own = replace(scenario, loads=None)
    cells, loads = [own], []
    for text in [] if scenario.loads is None else scenario.loads.split(","):
        found = LOAD.fullmatch(text)
        if not found:
            raise ConfigError(
                f"scenario.loads={scenario.loads}: {text.strip()!r} is no load; write K_D+K_U, with @N for N antennas, "
                "and commas between loads, such as 2+2,8+8,6+4@4."
            )
        downlink, uplink, *antennas = load = [int(number) for number in found.groups() if number is not None]
        if not (downlink + uplink and max(load) <= LIMIT and all(antennas)):
            raise ConfigError(
                f"scenario.loads={scenario.loads}: {text.strip()} is out of range; users are 0 to {LIMIT} in each "
                f"direction, one at least, and antennas 1 to {LIMIT}."
            )
        cell = replace(own, downlink_users=downlink, uplink_users=uplink)
        if antennas:
            cell = replace(cell, transmit_antennas=antennas[0], receive_antennas=antennas[0])
        if load in loads:
            raise ConfigError(f"scenario.loads={scenario.loads}: {text.strip()} is there twice.")
        loads.append(load)
        if cell not in cells:
            cells.append(cell)
    return cells


def check_loads(config: Config) -> None:
    """Refuse loads that the rest of the configuration cannot serve. :raises ConfigError: says why"""
    scenario = config.scenario
    own, *others = cells_of(scenario)
    if not others:
        return
    asked = f"scenario.loads={scenario.loads}"
    if config.network.kind == "mlp":
        raise ConfigError(
            f"{asked}, but network.kind=mlp is built for one number of users; network.kind=link_graph serves any."
        )
    if scenario.head == "beamforming":
        raise ConfigError(
            f"{asked}, but scenario.head=beamforming reads a beam off its user alone, whatever the others are; "
            "scenario.head=switching or structured serves any load."
        )
    if scenario.channel_bank is not None:
        raise ConfigError(
            f"{asked}, but all states of scenario.channel_bank={scenario.channel_bank} are of one load; "
            "set one of the two to null."
        )
    if scenario.stored_states:
        raise ConfigError(
            f"{asked}, but scenario.stored_states={scenario.stored_states} asks for scarce states of one load; "
            "set it to 0, or scenario.loads to null."
        )
    directions = own.downlink_users > 0, own.uplink_users > 0
    if config.stages.state is not None and any(
        (c.downlink_users > 0, c.uplink_users > 0) != directions for c in others
    ):
        raise ConfigError(
            f"{asked} has a cell of one direction alone beside others, but SENPNN (stages.state={config.stages.state}) "
            "is built for the channels of one kind of cell; leave that load out, or set stages.state=null."
        )
    antennas = own.transmit_antennas, own.receive_antennas
    other = [cell for cell in others if (cell.transmit_antennas, cell.receive_antennas) != antennas]
    if other and config.stages.state is not None:
        raise ConfigError(
            f"{asked} has a cell of {counted(other[0].transmit_antennas, 'antenna')}, but SENPNN "
            f"(stages.state={config.stages.state}) is built for {antennas[0]} + {antennas[1]}; leave out the @, or set "
            "stages.state=null."
        )
