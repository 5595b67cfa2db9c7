"""Exact Shapley values and interactions beside shapiq's, sampled ones beside shap's, on known games."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapiq
from torch import nn

from blood_unet.coalitions import all_coalitions, cell_parts, coalition_values, make_game, superpixel_game
from blood_unet.core import ParameterError
from blood_unet.data import phantom
from blood_unet.images import to_tensor
from blood_unet.model import BloodUNet
from blood_unet.shapley import (
    exact_shapley_values,
    sampled_shapley,
    shapley_from_table,
    shapley_interactions,
    subgame,
)
from blood_unet.targets import HardDice, LogitContrast, frozen_mask

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / 'bench' / 'shapley.py')))


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


@pytest.fixture(scope='module')
def cells():
    "Phantom cells on which the bundled network finds a nucleus: the network, the cells, images and masks."
    model, drawn = BloodUNet.from_pretrained('phantom-28'), phantom(16, size=28, seed=5)
    drawn = drawn.subset(frozen_mask(model, to_tensor(drawn.images)).flatten(1).any(1).numpy()).subset(
        range(8)
    )
    x = to_tensor(drawn.images)
    return model, drawn, x, HardDice(frozen_mask(model, x))


@pytest.fixture(scope='module')
def replayed(cells):
    "Exact values of ten superpixels a cell, and the game that replays the table of all 1,024 coalitions."
    model, drawn, x, target = cells
    game = superpixel_game(x, drawn.cell, inside=5, outside=5)
    table = coalition_values(game, model, target, all_coalitions(10))
    return shapley_from_table(table), bench.table_game(table)


def test_a_replayed_game_has_the_values_of_its_table(replayed):
    exact, replay = replayed
    assert (exact_shapley_values(*replay) == exact).all()


def test_all_coalitions_sampled_are_exact(replayed):
    exact, replay = replayed
    assert abs(sampled_shapley(*replay, samples=1024).values - exact).max() < 1e-9


def test_pairs_halve_the_error_and_intervals_hold_the_truth(replayed):
    exact, replay = replayed

    def error(paired):
        runs = [sampled_shapley(*replay, samples=200, seed=s, paired=paired).values for s in range(5)]
        return np.mean([(run - exact) ** 2 for run in runs])

    assert error(True) < error(False) / 2
    stopped = sampled_shapley(*replay, samples=1000, tolerance=0.02)
    assert (stopped.high - stopped.values).max() <= 0.02 or stopped.forwards.max() == 1000
    assert stopped.forwards.min() < stopped.forwards.max()
    assert ((stopped.low - 1e-9 <= exact) & (exact <= stopped.high + 1e-9)).mean() > 0.85


def test_through_shap(replayed):
    exact, replay = replayed
    before = np.random.get_state()[1].copy()
    assert abs(bench.through_shap(*replay, method='exact') - exact).max() < 1e-6
    for method in ('kernel', 'permutation'):
        found, again = (bench.through_shap(*replay, samples=200, method=method) for _ in range(2))
        assert (found == again).all()  # seeded, it repeats itself
        assert ((found - exact) ** 2).mean() < 1e-4
        assert abs(found.sum(1) - exact.sum(1)).max() < 1e-6
    assert (np.random.get_state()[1] == before).all()
    with pytest.raises(ParameterError, match="got method='deep'"):
        bench.through_shap(*replay, method='deep')


def test_through_shap_refuses_nan(cells):
    model, drawn, x, target = cells
    game = make_game(x, cell_parts(drawn.nucleus, drawn.cell, drawn.red))
    broken = BloodUNet(widths=(4, 8))
    nn.init.constant_(broken.mask_head.bias, float('nan'))
    few = subgame(game, target, range(2))[0]
    with pytest.raises(ParameterError, match='look for NaN'):
        bench.through_shap(few, broken, LogitContrast(target.region[:2]))
