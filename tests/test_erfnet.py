import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cilkit.networks.erfnet import (
    Decoder,
    Downsampler,
    Encoder,
    ERFNet,
    NonBottleneck1d,
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def network(make_network):
    return make_network(5)


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


# the network itself


def test_the_encoder_has_the_published_number_of_parameters():
    assert count(Encoder()) == 1_874_044


@pytest.mark.parametrize(
    ("classes", "parameters"),
    [(5, 189_237), (6, 189_302), (8, 189_432), (11, 189_627), (19, 190_147)],
)
def test_the_decoder_has_the_published_number_of_parameters(classes, parameters):
    assert count(Decoder(classes)) == parameters
    assert count(ERFNet(classes)) == 1_874_044 + parameters


def test_the_state_dict_has_the_names_of_the_published_files():
    names = list(ERFNet(19).state_dict())
    conv = ["conv.weight", "conv.bias"]
    bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    sampler = conv + [f"bn.{name}" for name in bn]
    residual = [
        *("conv3x1_1.weight", "conv3x1_1.bias", "conv1x3_1.weight", "conv1x3_1.bias"),
        *(f"bn1.{name}" for name in bn),
        *("conv3x1_2.weight", "conv3x1_2.bias", "conv1x3_2.weight", "conv1x3_2.bias"),
        *(f"bn2.{name}" for name in bn),
    ]
    wanted = [f"encoder.initial_block.{name}" for name in sampler]
    for k in range(15):  # down, 5 blocks, down, 8 blocks
        wanted += [f"encoder.layers.{k}.{name}" for name in (sampler if k in (0, 6) else residual)]
    for k in range(6):  # up, 2 blocks, up, 2 blocks
        wanted += [f"decoder.layers.{k}.{name}" for name in (sampler if k in (0, 3) else residual)]
    wanted += ["decoder.output_conv.weight", "decoder.output_conv.bias"]
    assert len(wanted) == 343
    assert names == wanted


def test_every_gradient_is_that_of_the_network_written_out(network, images):
    def plain(x: torch.Tensor) -> torch.Tensor:
        for layer in [network.encoder.initial_block, *network.encoder.layers]:
            x = block(layer, x)
        for layer in network.decoder.layers:
            x = block(layer, x)
        return network.decoder.output_conv(x)

    def block(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if isinstance(layer, Downsampler):
            return F.relu(layer.bn(torch.cat([layer.conv(x), F.max_pool2d(x, 2)], dim=1)))
        if not isinstance(layer, NonBottleneck1d):
            return F.relu(layer.bn(layer.conv(x)))
        y = F.relu(layer.bn1(layer.conv1x3_1(F.relu(layer.conv3x1_1(x)))))
        y = layer.bn2(layer.conv1x3_2(F.relu(layer.conv3x1_2(y))))
        return F.relu(x + layer.dropout(y))

    gradients = []
    for forward in (plain, network):
        network.train().zero_grad()
        torch.manual_seed(0)  # dropout
        forward(images).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.equal(other)
    assert all(gradient.any() for gradient in gradients[0])


def test_only_the_second_pair_of_convolutions_is_dilated():
    blocks = [layer for layer in Encoder().layers if hasattr(layer, "conv3x1_1")]
    dilations = [block.conv3x1_2.dilation for block in blocks]
    assert dilations == [(1, 1)] * 5 + [(2, 1), (4, 1), (8, 1), (16, 1)] * 2
    assert [block.conv1x3_2.dilation for block in blocks] == [(w, h) for h, w in dilations]
    assert {block.conv3x1_1.dilation for block in blocks} == {(1, 1)}
    assert {block.conv1x3_1.dilation for block in blocks} == {(1, 1)}


def test_dropout_and_batch_norm_have_the_reference_settings():
    network = ERFNet(5)
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout2d)]
    assert rates == [0.03] * 5 + [0.3] * 8 + [0.0] * 4
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 3 + 2 * 13 + 2 + 2 * 4
    assert {norm.eps for norm in norms} == {1e-3}


def test_features_have_an_eighth_of_the_resolution_and_logits_all_of_it(network, images):
    assert network.encoder(images).shape == (2, 128, 2, 3)
    assert network(images).shape == (2, 5, 16, 24)
    assert network.num_classes == 5


def test_the_network_of_these_tests_reacts_to_its_input(network, images):
    logits = network(images)
    assert logits.std(dim=(0, 2, 3)).min() > 0.01


def reference(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """ERFNet in evaluation mode, written down once more from its paper, layer by layer."""

    def conv(x, name, **settings):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return weight * (x - mean) / (variance + 1e-3).sqrt() + bias

    def down(x, name):
        both = [conv(x, f"{name}.conv", stride=2, padding=1), F.max_pool2d(x, 2, stride=2)]
        return norm(torch.cat(both, dim=1), f"{name}.bn").relu()

    def block(x, name, d=1):
        y = conv(x, f"{name}.conv3x1_1", padding=(1, 0)).relu()
        y = norm(conv(y, f"{name}.conv1x3_1", padding=(0, 1)), f"{name}.bn1").relu()
        y = conv(y, f"{name}.conv3x1_2", padding=(d, 0), dilation=(d, 1)).relu()
        y = norm(conv(y, f"{name}.conv1x3_2", padding=(0, d), dilation=(1, d)), f"{name}.bn2")
        return (y + x).relu()

    def up(x, name):
        weight, bias = state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]
        y = F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        return norm(y, f"{name}.bn").relu()

    x = down(down(images, "encoder.initial_block"), "encoder.layers.0")
    for k in range(1, 6):
        x = block(x, f"encoder.layers.{k}")
    x = down(x, "encoder.layers.6")
    for k, d in enumerate((2, 4, 8, 16, 2, 4, 8, 16), start=7):
        x = block(x, f"encoder.layers.{k}", d)
    for k in (0, 3):
        x = up(x, f"decoder.layers.{k}")
        x = block(block(x, f"decoder.layers.{k + 1}"), f"decoder.layers.{k + 2}")
    last = "decoder.output_conv"
    return F.conv_transpose2d(x, state[f"{last}.weight"], state[f"{last}.bias"], stride=2)


def test_the_forward_pass_is_that_of_the_reference_architecture(network, images):
    network, images = network.double(), images.double()
    torch.testing.assert_close(network(images), reference(network.state_dict(), images))


def test_blocks_that_start_as_the_identity_hand_their_input_on():
    network = ERFNet(5)
    network.start_as_identity(network)
    blocks = [module for module in network.modules() if isinstance(module, NonBottleneck1d)]
    assert len(blocks) == 13 + 4
    for block in blocks:
        x = torch.rand(2, block.bn1.num_features, 8, 8)
        assert torch.equal(block.eval()(x), x)
