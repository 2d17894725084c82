"""Blueprint `canvas`: transpile a canvas and train it with Keras on an asset."""

from __future__ import annotations

from tapeline.trainer.job import Done, Job


def train(job: Job) -> Done:
    """Train to the end of the config, or to a stop."""
    from tapeline.trainer import training

    return training.train(job)


def prepare() -> None:
    """Import the backend and trace one step of a tiny model: both take seconds, and neither depends on a run."""
    from tapeline.trainer import training

    training.warm_up()
