"""A downlink aided by a reconfigurable intelligent surface: read :mod:`.problem` first."""
