"""Case 9: the EMA model's weights at single iterations and along a trajectory."""

import torch
from torch import Tensor, nn

from stages.train.adaptation.pseudo_labels import ema_alpha, update_ema
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-6


class Holder(nn.Module):
    """Tensors of a state dict as parameters, those of batch-norm statistics as buffers."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            key = name.replace(".", "/")
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                self.register_buffer(key, tensor)
            else:
                self.register_parameter(key, nn.Parameter(tensor))

    def tensors(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): tensor for name, tensor in self.state_dict().items()}


def pair(case: Case) -> tuple[Holder, Holder]:
    return Holder(case.params("in/teacher/")), Holder(case.params("in/student/"))


def test_alpha_is_the_official_one(reference: Reference) -> None:
    case = reference("ema")
    for iteration, alpha in zip(case["out/iters"], case["out/alpha"], strict=True):
        assert abs(ema_alpha(int(iteration), case.meta["alpha"]) - alpha) <= 1e-12


def test_update_moves_parameters_and_leaves_buffers(reference: Reference) -> None:
    case = reference("ema")
    for iteration in map(int, case["out/iters"]):
        ema, student = pair(case)
        update_ema(ema, student, iteration, case.meta["alpha"])
        expected = case.params(f"out/iter{iteration}/")
        assert ema.tensors().keys() == expected.keys()
        for name, tensor in ema.tensors().items():
            assert_close(tensor, expected[name], TOL)


def test_trajectory_is_the_official_one(reference: Reference) -> None:
    case = reference("ema")
    assert case.meta["trajectory"] == "student conv.bias at iteration it = [0,1,2]+it"
    ema, student = pair(case)
    for iteration, expected in enumerate(case["out/trajectory_conv_bias"]):
        bias = student.get_parameter("conv/bias")
        with torch.no_grad():
            bias.copy_(torch.arange(len(bias)) + iteration)
        update_ema(ema, student, iteration, case.meta["alpha"])
        assert_close(ema.get_parameter("conv/bias"), expected, TOL)
