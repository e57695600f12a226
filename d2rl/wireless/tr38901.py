"""Channels between base station and users after 3GPP TR 38.901, drawn by Sionna (optional extra ``channels``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.wireless.fading import SPEED_OF_LIGHT

BASE_STATION_HEIGHT = {"umi": 10.0, "uma": 25.0}  # m, TR 38.901 tables 7.2-1
USER_HEIGHT = 1.5  # m
STRIDE = 10  # wavelengths between two slots, after which phases know nothing of each other


class UrbanChannels:
    """One outdoor cell of TR 38.901 UMi (street canyon) or UMa, without interference from others.

    A horizontal line of vertically polarised omnidirectional antennas half a wavelength apart, along y; users with one
    such antenna. Line of sight is drawn with the model's probability; path loss, shadow fading and its
    correlation among the users of a drop are the model's. The band is taken to be flat, as at the carrier.

    Example::

        urban = UrbanChannels("umi", antennas=8, carrier=2e9, seed=0)
        uplink, gain = urban.draw(positions)  # [B, K, 8], [B, K]

    :param model: ``umi`` or ``uma``
    :param antennas: N at the base station
    :param carrier: Hz
    :param seed: of Sionna's own generators
    :raises InputError: Sionna is not installed
    """

    def __init__(self, model: str, antennas: int, carrier: float, seed: int):
        self.height, self.carrier = BASE_STATION_HEIGHT[model], carrier
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # both the import and the seed move torch's global generator
            try:
                from sionna.phy import config
                from sionna.phy.channel import tr38901
            except ImportError:
                raise InputError(
                    "3GPP TR 38.901 channels need Sionna, which is not installed: pip install sionna-no-rt "
                    "(the extra d2rl[channels])."
                ) from None
            config.seed = seed

            def line(count: int) -> tr38901.PanelArray:
                return tr38901.PanelArray(
                    num_rows_per_panel=1,
                    num_cols_per_panel=count,
                    polarization="single",
                    polarization_type="V",
                    antenna_pattern="omni",
                    carrier_frequency=carrier,
                    device="cpu",
                )

            self.channel = {"umi": tr38901.UMi, "uma": tr38901.UMa}[model](
                carrier_frequency=carrier,
                o2i_model="low",
                ut_array=line(1),
                bs_array=line(antennas),
                direction="uplink",
                device="cpu",
            )

    def draw(self, positions: Tensor, slots: int = 1) -> tuple[Tensor, Tensor]:
        """Uplink channels of users at given places; other users and drops are independent of these.

        In further slots a user has moved on by ``STRIDE`` wavelengths, each in a direction of its own: its rays stay as
        they are, their phases change.

        By reciprocity the downlink user receives h^T w, so that its g is the conjugate of h.

        :param positions: [B, K, 2] in m, base station at the origin
        :param slots: T
        :returns: coefficients [B T, K, N], complex, amplitude gain, the slots of a drop side by side; mean gain
            [B T, K]: power of all paths, which is the mean over frequency, averaged over the antennas
        """
        batch, users = positions.shape[:2]
        away = 2 * math.pi * torch.rand(batch, users, generator=self.generator)
        pace = torch.stack([away.cos(), away.sin(), torch.zeros_like(away)], dim=-1) * (slots > 1)  # m/s
        height = positions.new_full((batch, users, 1), USER_HEIGHT)
        still, mast = positions.new_zeros(batch, users, 3), positions.new_tensor([[0.0, 0.0, self.height]])
        with torch.random.fork_rng(devices=[]):
            self.channel.reset_topology()
            self.channel.set_topology(
                ut_loc=torch.cat([positions, height], dim=-1),
                bs_loc=mast.expand(batch, 1, 3),
                ut_orientations=still,
                bs_orientations=still[:, :1],
                ut_velocities=pace,
                in_state=torch.zeros(batch, users, dtype=torch.bool),
                los="random",
            )
            paths, _ = self.channel(num_time_samples=slots, sampling_frequency=self.carrier / (STRIDE * SPEED_OF_LIGHT))
        paths = paths[:, 0, :, :, 0].permute(0, 4, 2, 1, 3).flatten(0, 1)  # [B T, K, N, paths]
        return paths.sum(-1), paths.abs().square().sum(-1).mean(-1)
