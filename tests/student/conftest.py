"""Settings of training's tests, which keep these quick and repeatable, too."""

from tests.train.conftest import no_flushing, one_thread

__all__ = ["no_flushing", "one_thread"]
