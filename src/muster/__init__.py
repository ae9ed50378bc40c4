"""Muster: federated learning from one job file."""
