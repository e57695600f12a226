"""Batched environments of the full-duplex cell."""
