"""Puts deployed runs together: the server, its clients, all of it on one machine, and replays."""
