"""The scorecard on models that are not ours: a segmentation_models.pytorch U-Net and a MONAI U-Net."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks import nets

from blood_unet.core import ParameterError
from blood_unet.data import phantom
from blood_unet.controls import CONTROLS
from blood_unet.heatmaps import integrated_gradients
from blood_unet.targets import Adapter, LogitContrast
from blood_unet.scorecard import scorecard


def smp_unet():
    return Adapter(
        smp.Unet('resnet18', encoder_weights=None, classes=1),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def monai_unet():
    return Adapter(
        nets.UNet(spatial_dims=2, in_channels=3, out_channels=3, channels=(8, 16, 32), strides=(2, 2)),
        softmax=True,
    )


@pytest.mark.parametrize('build', (smp_unet, monai_unet))
def test_scorecard_of_a_foreign_model(build):
    torch.manual_seed(0)
    model, cells = build().eval(), phantom(2, 64, 0)
    masks = cells.nucleus, cells.cell, cells.red & ~cells.cell
    explainers = {
        'integrated gradients': lambda m, t, x, seed: integrated_gradients(m, t, x, steps=4),
        'random': CONTROLS['random'],
    }
    before = [p.clone() for p in model.parameters()]
    card = scorecard(
        model,
        explainers,
        cells.images,
        masks,
        LogitContrast(torch.from_numpy(cells.nucleus)),
        draws=6,
        steps=3,
    )
    assert set(card.explainer) == set(explainers) and np.isfinite(card.value).all()
    assert (
        len(card.groupby(['metric', 'fill'])) == 5 * 2 + 6 + 2
    )  # five metrics with two fills, six of explainers, forwards and seconds
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())) and not model.training
    with pytest.raises(ParameterError, match='two images'):
        scorecard(model, explainers, cells.images[:1], None)
