"""The only room that knows gradients: learners, workers, and the data plane that folds updates."""
