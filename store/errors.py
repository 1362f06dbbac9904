"""Errors that a user can correct: one family, one line each, exit code 2."""


class SSRError(ValueError):
    """A mistake that the user can correct; the message says what, where and what to do."""


class ConfigError(SSRError):
    """A key or value of params.yaml, or a command-line option, is wrong."""


class DataError(SSRError):
    """An image, a label or a manifest is missing, unreadable or inconsistent."""


class DataUnreadableError(DataError):
    """A file of the dataset could not be looked at; it may well be sound."""


class CheckpointError(SSRError):
    """A weight file is missing, damaged or of another architecture."""


class TrainingError(SSRError):
    """Training cannot go on, for instance because a loss is not finite."""


class StoreError(SSRError):
    """A feature store cannot be used as asked."""


class StoreMissingError(StoreError):
    """There is no store where one was expected."""


class StoreIncompleteError(StoreError):
    """The store lacks images, levels or shards that are asked for."""


class StoreMismatchError(StoreError):
    """The store holds features of another teacher, image content or format."""


class StoreFormatError(StoreMismatchError):
    """The store has another format, so it is not this version's to repair."""


class StoreUnreadableError(StoreError):
    """A file of a store could not be looked at, so nothing is known about it."""


class StoreBusyError(StoreError):
    """Another process writes to this store, or to this folder of results."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was too small, the machine's or its GPU's; PyTorch has its own words."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
