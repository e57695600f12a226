"""Physics of a full-duplex cell; knows nothing of learning."""

from d2rl.wireless.channel_state import ChannelState, concatenate
from d2rl.wireless.convergence import converged_wmmse
from d2rl.wireless.heads import BeamformingHead, StructuredHead, make_head
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.precoders import full_uplink_power, mrt, random_decision, rzf, zf
from d2rl.wireless.wmmse import wmmse

__all__ = [
    "BeamformingHead",
    "ChannelState",
    "StructuredHead",
    "concatenate",
    "converged_wmmse",
    "full_uplink_power",
    "link_rates",
    "make_head",
    "mrt",
    "random_decision",
    "rzf",
    "wmmse",
    "zf",
]
