"""The loop that trains the small networks of the ledger is that of `fit`, and what it changes is changed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from blood_unet.data import Cells, load_cells
from blood_unet.images import to_tensor
from blood_unet.model import BloodUNet, count_parameters
from blood_unet.training import TrainingConfig, fit, training_tensors

SMALL = dict(widths=(4, 8, 16))


@pytest.fixture(scope='module')
def bench():
    sys.path.insert(0, str(Path(__file__).parent.parent / 'bench'))
    import recipe_cells
    import recipe_networks

    yield recipe_networks, recipe_cells
    sys.path.pop(0)


@pytest.fixture(scope='module')
def cells():
    return load_cells('phantom', 'train', 28, limit=48)


def test_the_loop_is_that_of_fit_to_the_same_bits(bench, cells):
    networks, _ = bench
    settings = TrainingConfig(epochs=2, batch_size=16, seed=3)
    torch.manual_seed(3)
    one, other = BloodUNet(**SMALL), BloodUNet(**SMALL)
    other.load_state_dict(one.state_dict())
    history = fit(one, cells, None, settings, device='cpu', progress=False)
    losses, looks = networks.learn(other, training_tensors(cells), networks.Recipe(), settings)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    np.testing.assert_allclose(np.reshape(losses, (2, 3)).mean(1), history.loss, rtol=1e-6)
    assert looks == []


def test_each_setting_of_a_recipe_changes_what_is_learnt(bench, cells):
    networks, _ = bench
    settings = TrainingConfig(epochs=1, batch_size=16, weight_decay=0.5)

    def learnt(**changed):
        recipe = networks.Recipe(options=SMALL, **changed)
        network = networks.build(recipe, 0)
        networks.learn(network, training_tensors(cells), recipe, settings)
        return network.mask_head.weight.detach().clone()

    changes = [dict(skips=False), dict(augment=False), dict(rate='constant'), dict(rate='step')]
    changes += [dict(loss='cross-entropy'), dict(loss='weighted cross-entropy')]
    changes += [dict(optimiser='sgd'), dict(optimiser='adam L2')]
    found = [learnt(**change) for change in [{}, *changes]]
    assert all(torch.isfinite(weights).all() for weights in found)
    for i, weights in enumerate(found):
        assert not any(torch.equal(weights, other) for other in found[:i]), [{}, *changes][i]


def test_without_skips_the_encoder_reaches_the_mask_by_the_bottleneck_alone(bench, cells):
    networks, _ = bench
    whole, cut = (networks.build(networks.Recipe(options=SMALL, skips=skips), 0).eval() for skips in (1, 0))
    assert count_parameters(whole) == count_parameters(cut)
    x = to_tensor(cells.images[:2])
    for network, depends in ((whole, True), (cut, False)):
        *skips, deep = network.encode(torch.nn.functional.pad(x, (0, 4, 0, 4)))
        answers = []
        for maps in (skips, [m + 1 for m in skips]):
            y = deep
            for step, skip in zip(network.decoder, reversed(maps)):
                y = step(y, skip)
            answers.append(network.mask_head(y))
        assert torch.equal(*answers) != depends


def test_a_field_holds_the_cell_once_in_its_own_surroundings(bench):
    _, made = bench
    cells = load_cells('phantom', 'train', made.SIDE, limit=6)
    whole = cells.nucleus.sum((1, 2))
    for share, side in made.FIELDS.items():
        found = made.fields(cells, share)
        assert isinstance(found, Cells) and found.images.shape == cells.images.shape
        shrunk = found.nucleus.sum((1, 2)) / whole
        np.testing.assert_allclose(shrunk.mean(), (side / made.SIDE) ** 2, rtol=0.15)  # pixels are whole
        inside, outside = (found.images[m].mean() for m in (found.nucleus, ~found.cell))
        assert inside < outside - 20  # of 255: nuclei are dark
    np.testing.assert_array_equal(made.fields(cells, 16).images, cells.images)
