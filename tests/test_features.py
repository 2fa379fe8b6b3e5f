import pytest
import torch
from torch import nn

from cilkit.training.features import outputs_of


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("decoder.layers", r"'decoder.layers' took no part .*: decoder.layers.0, decoder.layers.1"),
        ("two", r"'two' gives a tuple; wanted one tensor \(B, C, h, w\). Name another one: two.0"),
        ("flat", r"'flat' gives a Tensor of shape \(2, 3\); wanted one tensor"),
    ],
)
def test_a_layer_that_gives_no_map_of_features_is_refused(layer, message, make_network):
    network = make_network(5)
    network.two = nn.Sequential(nn.Identity())
    network.two.forward = lambda x: (x, x)
    network.flat = nn.Identity()
    with outputs_of(network, (layer,)) as features, pytest.raises(ValueError, match=message):
        network.two(torch.zeros(2, 3, 8, 8)), network.flat(torch.zeros(2, 3)), features()
    assert not any(module._forward_hooks for module in network.modules())


def test_features_are_those_of_the_last_pass_and_can_be_had_once(make_network):
    network, images = make_network(5), torch.rand(3, 2, 3, 16, 24)
    with torch.no_grad(), outputs_of(network, ("encoder",)) as features:
        wanted = [network.encoder(x) for x in images][-1]
        assert features()["encoder"].equal(wanted)
        with pytest.raises(ValueError, match="'encoder' took no part in the forward pass"):
            features()


def test_without_names_or_a_network_there_are_no_features(make_network):
    for network, names in ((make_network(5), ()), (None, ("encoder",))):
        with outputs_of(network, names) as features:
            assert features() == {}
