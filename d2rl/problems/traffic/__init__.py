"""A full-duplex cell whose users have something to send: read :mod:`.problem` first."""
