"""Metrics of generated channels."""

from d2rl.metrics.plausibility import (
    AntennaCorrelationError,
    CovarianceError,
    GainKS,
    MagnitudeKS,
    MaximumMeanDiscrepancy,
    NearestNeighbourRatio,
    RateKS,
    plausibility,
)

__all__ = [
    "AntennaCorrelationError",
    "CovarianceError",
    "GainKS",
    "MagnitudeKS",
    "MaximumMeanDiscrepancy",
    "NearestNeighbourRatio",
    "RateKS",
    "plausibility",
]
