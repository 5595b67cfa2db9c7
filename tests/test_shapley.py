"Exact Shapley values and interactions beside shapiq's, which only the tests need."

import numpy as np
import pytest
import shapiq

from blood_unet.data import phantom
from blood_unet.targets import HardDice, LogitContrast, frozen_mask
from blood_unet.coalitions import all_coalitions, cell_parts, make_game, coalition_values
from blood_unet.model import BloodUNet
from blood_unet.images import to_tensor
from blood_unet.shapley import shapley_from_table, shapley_interactions


def oracle(values):
    "Shapley values (n,) and second-order k-SII (n, n) of one table (2**n,), by shapiq."
    n = len(values).bit_length() - 1
    computer = shapiq.ExactComputer(
        n_players=n, game=lambda members: values[(np.atleast_2d(members).astype(int) << np.arange(n)).sum(1)]
    )
    single, pairs = computer('SV', 1), computer('k-SII', 2)
    matrix = np.array(
        [[pairs[(i,) if i == j else tuple(sorted((i, j)))] for j in range(n)] for i in range(n)]
    )
    return np.array([single[(i,)] for i in range(n)]), matrix


def cell_tables(fine):
    "Tables of real games: phantom cells, a network, two targets."
    cells, model = phantom(6, size=28, seed=5), BloodUNet.from_pretrained('phantom-28')
    cells = cells.subset(cells.nucleus.any((1, 2)))
    x = to_tensor(cells.images)
    game, region = make_game(x, cell_parts(cells.nucleus, cells.cell, cells.red, fine)), frozen_mask(model, x)
    return np.concatenate(
        [
            coalition_values(game, model, target(region), all_coalitions(game.n))
            for target in (HardDice, LogitContrast)
        ]
    )


@pytest.mark.parametrize(
    'make',
    [
        lambda: np.random.default_rng(0).normal(size=(3, 2**7)),
        lambda: cell_tables(False),
        lambda: cell_tables(True),
    ],
    ids=['random', 'five parts', 'eight parts'],
)
def test_equal_to_shapiq(make):
    tables = make()
    for row, ours, together in zip(tables, shapley_from_table(tables), shapley_interactions(tables)):
        single, pairs = oracle(row)
        assert abs(ours - single).max() < 1e-6
        assert abs(together - pairs).max() < 1e-6
