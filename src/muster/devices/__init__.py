"""Who the clients are in time: how fast they compute and how fast their links are."""
