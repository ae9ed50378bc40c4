"""The model zoo, by family."""
