import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from cilkit.networks import NETWORKS, Segmenter, get_network
from cilkit.networks.erfnet import ERFNet
from cilkit.networks.lraspp import LRASPP
from cilkit.networks.weights import load_weights


class Small(Segmenter):
    """As small as a network can be: one convolution each, and features that are a tuple."""

    class Features(nn.Conv2d):
        def forward(self, images):
            return (super().forward(images),)

    class Scores(nn.Conv2d):
        def forward(self, features):
            return super().forward(features[0])

    stride = 1

    def new_encoder(self):
        return self.Features(3, 4, 1)

    def new_decoder(self, classes):
        return self.Scores(4, classes, 1)


KINDS = [*NETWORKS.values(), Small]


def alive(kind: type[Segmenter], *classes: int, **settings: bool) -> Segmenter:
    """A network of some kind whose batch norms have seen noise, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind(*classes, **settings).train()
        for _ in range(3):
            network(torch.rand(4, 3, 32, 48))
    return network.eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


# the contract, for every network


@pytest.mark.parametrize("kind", KINDS)
def test_several_decoders_are_concatenated_oldest_first(kind, images):
    network = alive(kind, 5, 6, 8)
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (2, 19, 32, 48) and network.num_classes == 19
        features = network.encoder(images)
        for decoder, channels in zip(
            network.decoders, (slice(0, 5), slice(5, 11), slice(11, 19)), strict=True
        ):
            assert decoder(features).equal(logits[:, channels])
    assert logits.std(dim=(0, 2, 3)).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_wider_last_layer_keeps_all_that_was_learned(kind, images):
    network = alive(kind, 5)
    wider = network.widened(6).eval()
    assert type(wider) is kind and wider.classes == (11,) and network.classes == (5,)
    old, new = network.state_dict(), wider.state_dict()
    assert new.keys() == old.keys()
    grown = [key for key in old if new[key].shape != old[key].shape]
    assert all(new[key].equal(old[key]) for key in old if key not in grown)
    assert grown and all(key.startswith("decoder.") for key in grown)
    for key in grown:
        assert new[key].numel() * 5 == old[key].numel() * 11
        assert new[key][tuple(map(slice, old[key].shape))].equal(old[key])
    with torch.no_grad():
        logits = wider(images)
        torch.testing.assert_close(logits[:, :5], network(images))
    assert logits[:, 5:].abs().sum(dim=(0, 2, 3)).min() > 0  # the new channels are alive


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_channels_are_drawn_anew(kind):
    network = kind(5)
    one, other = (network.widened(6).decoder.state_dict() for _ in range(2))
    differ = {key for key in one if not one[key].equal(other[key])}
    assert differ and differ <= {
        key for key, value in network.decoder.state_dict().items() if value.shape != one[key].shape
    }


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_decoder_keeps_the_old_outputs_exactly(kind, images):
    network = alive(kind, 5)
    grown = network.with_decoder(6).eval()
    assert type(grown) is kind and grown.classes == (5, 6) and network.classes == (5,)
    again = grown.with_decoder(8).eval()
    assert again.classes == (5, 6, 8) and again.num_classes == 19
    with torch.no_grad():
        assert grown(images)[:, :5].equal(network(images))
        assert again(images)[:, :11].equal(grown(images))


@pytest.mark.parametrize("grow", [Segmenter.widened, Segmenter.with_decoder])
@pytest.mark.parametrize("kind", KINDS)
def test_a_grown_network_is_a_copy_that_normalises_like_the_one_it_was(kind, grow):
    network = kind(5, normalise=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    grown = grow(network, 6)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1)
    assert all(network.state_dict()[key].equal(before[key]) for key in before)
    assert grown.normalise is True and grow(kind(5), 6).normalise is False


@pytest.mark.parametrize("kind", KINDS)
def test_normalise_is_the_mean_and_deviation_of_imagenet(kind, images):
    network = alive(kind, 5)
    normalising = kind(5, normalise=True).eval()
    normalising.load_state_dict(network.state_dict())  # it adds no parameter
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(normalising(images), network((images - mean) / deviation))
    assert not torch.allclose(normalising(images), network(images))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.stride == 8])
@pytest.mark.parametrize(("height", "width"), [(12, 24), (16, 20), (15, 17)])
def test_a_size_that_is_no_multiple_of_the_stride_is_refused(kind, height, width):
    with pytest.raises(
        ValueError, match=f"{height} x {width} pixels.*multiples of 8.*{kind.__name__}"
    ):
        kind(5)(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [(0,), (-1,), (2.5,), ("5",), (5, 0)])
def test_a_number_of_classes_that_makes_no_sense_is_refused(kind, classes):
    for make in (lambda: kind(*classes), lambda: kind(5).widened(classes[-1])):
        with pytest.raises(ValueError, match="wanted a whole number from 1"):
            make()


def test_classes_cannot_be_added_to_the_last_layer_of_two_decoders():
    with pytest.raises(ValueError, match="the network has 2 decoders.*Use with_decoder"):
        Small(5, 6).widened(8)


def test_a_network_without_an_encoder_or_a_decoder_says_so():
    class Without(Small):
        new_decoder = Segmenter.new_decoder

    with pytest.raises(NotImplementedError, match="Segmenter has no method new_encoder"):
        Segmenter(5)
    with pytest.raises(NotImplementedError, match="Without has no method new_decoder"):
        Without(5)


# the registry


def test_a_network_is_found_by_its_name(monkeypatch):
    assert get_network("ERFNet") is ERFNet and get_network("LRASPP") is LRASPP
    monkeypatch.setitem(NETWORKS, "small", Small)
    assert get_network("small") is Small


@pytest.mark.parametrize("name", ["erfnet", "small", "", None, ERFNet])
def test_a_name_that_is_not_registered_is_refused_with_those_that_are(name):
    with pytest.raises(ValueError, match="unknown network.*ERFNet, LRASPP.*NETWORKS"):
        get_network(name)


# LR-ASPP


def test_lraspp_computes_what_torchvisions_network_of_the_same_weights_does(images):
    network = alive(LRASPP, 5)
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    theirs.backbone.load_state_dict(network.encoder.state_dict())
    theirs.classifier.load_state_dict(network.decoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(images), theirs(images)["out"])


def test_blocks_of_lraspp_that_start_as_the_identity_hand_their_input_on():
    network = alive(LRASPP, 5)
    network.start_as_identity(network)
    blocks = [module for module in network.modules() if getattr(module, "use_res_connect", False)]
    assert len(blocks) == 10
    for block in blocks:
        x = torch.rand(2, block.block[0][0].in_channels, 8, 8)
        assert block(x).equal(x)


def test_published_weights_of_mobilenet_load_into_the_encoder_of_lraspp(tmp_path):
    published, encoder = mobilenet_v3_large(weights=None), LRASPP(5).encoder
    torch.save(published.state_dict(), tmp_path / "mobilenet.pth")
    load_weights(encoder, tmp_path / "mobilenet.pth")
    wanted = published.features.state_dict()
    assert all(value.equal(wanted[name]) for name, value in encoder.state_dict().items())
