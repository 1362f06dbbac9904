import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from stages.student.heads import ConvNormAct, DAFormerHead, mlp_head
from stages.student.mit import BACKBONES
from stages.student.student import seeded

WIDTHS = BACKBONES["mit_b5"].widths


@pytest.fixture(scope="module")
def head() -> DAFormerHead:
    with seeded(0):
        return DAFormerHead(WIDTHS, 256, 256, 19, dropout=0.1)


def test_the_papers_head_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        head = DAFormerHead(WIDTHS, 256, 256, 19, dropout=0.1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3_712_275


def test_convolutions_start_as_mmcv_starts_them(head: DAFormerHead) -> None:
    blocks = [module for module in head.modules() if isinstance(module, ConvNormAct)]
    assert len(blocks) == 1 + 3 * 2 + 1
    for block in blocks:
        # Kaiming normal, fan out as PyTorch counts it: without regard to groups
        fan_out = block.conv.out_channels * block.conv.weight[0, 0].numel()
        assert block.conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert block.conv.bias is None
        assert bool((block.bn.weight == 1).all())
        assert not block.bn.bias.any()


def test_classifier_starts_small_and_unbiased(head: DAFormerHead) -> None:
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.classifier.bias is not None
    assert not head.classifier.bias.any()


def test_linear_embeddings_start_as_pytorch_does(head: DAFormerHead) -> None:
    for width, linear in zip(WIDTHS, head.embed, strict=True):
        assert isinstance(linear, nn.Linear)
        bound = width**-0.5  # uniform in +- 1 / sqrt(inputs), weight and bias
        assert linear.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert linear.bias.abs().max().item() == pytest.approx(bound, rel=0.1)


def test_dropout_drops_whole_channels_before_the_classifier_in_training_only() -> None:
    head = DAFormerHead([4, 4], 8, 400, 2, dropout=0.1)
    seen = []
    head.classifier.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    head.bottleneck.bn.bias.data.fill_(10.0)  # ReLU lets all through
    with torch.no_grad(), seeded(0):
        for mode in (True, False):
            head.train(mode)([torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)])
    trained, evaluated = ((maps == 0).all(dim=(2, 3)) for maps in seen)
    assert abs(trained.float().mean().item() - 0.1) < 0.04
    assert torch.equal(trained, (seen[0] == 0).any(dim=3).any(dim=2))
    assert not evaluated.any()


def test_mlp_head_is_segformers_own() -> None:
    widths = [16, 32, 80, 128]
    head = mlp_head(widths, 24, 5, dropout=0.1).eval()
    model = SegformerForSemanticSegmentation(
        SegformerConfig(hidden_sizes=widths, depths=[1] * 4, decoder_hidden_size=24, num_labels=5)
    ).eval()
    model.decode_head.load_state_dict(head.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.segformer(images, output_hidden_states=True).hidden_states
        assert torch.equal(head(features), model(images).logits)


def test_mlp_head_starts_as_the_other_one() -> None:
    with seeded(0):
        head = mlp_head(WIDTHS, 256, 19, dropout=0.1)
    fuse, classifier = head.get_submodule("linear_fuse"), head.get_submodule("classifier")
    assert isinstance(fuse, nn.Conv2d)
    assert isinstance(classifier, nn.Conv2d)
    assert fuse.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert classifier.bias is not None
    assert not classifier.bias.any()
    dropout = head.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_lie_in_memory_as_the_weights_do(layout: torch.memory_format) -> None:
    with seeded(0):
        head = DAFormerHead([4, 4], 8, 16, 2, dropout=0.0)
    head.to(memory_format=layout)  # type: ignore[call-overload]
    seen: list[torch.Tensor] = []
    for branch in head.aspp:
        branch.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    for strides in (torch.contiguous_format, torch.channels_last):
        maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]
        head([map_.contiguous(memory_format=strides) for map_ in maps])
    assert len(seen) == 8
    assert all(map_.is_contiguous(memory_format=layout) for map_ in seen)
