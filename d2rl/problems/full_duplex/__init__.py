"""The full-duplex cell: simulator, action heads, what a policy observes."""
