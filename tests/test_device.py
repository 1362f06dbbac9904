import pytest
import torch

from stages.device import pick_device
from store.errors import ConfigError


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused_by_the_key_that_asks_for_it() -> None:
    assert pick_device("auto", "train.device") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"train\.device is cuda, .* set it to auto or cpu"):
        pick_device("cuda", "train.device")


def test_the_cpu_can_always_be_had() -> None:
    assert pick_device("cpu", "train.device") == torch.device("cpu")
