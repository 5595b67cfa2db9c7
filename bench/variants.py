"""What the options of the network and of its training do.

A small ablation, several seeds each, results/variants.json.

python bench/variants.py [--seeds 3] [--train 4000] [--epochs 6]

Every variant changes one thing of the first one; the same cells, seeds and numbers of steps. Recipe masks
teach; the class accuracy is that of BloodMNIST's test split, the Dice that of the experts (the halves that
chose nothing). Differences are paired by seed and image, and the bootstrap crosses both. A variant that is
already in the results file is not run again.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from blood_unet.core import versions
from blood_unet.files import write_json
from blood_unet.data import load_cells
from blood_unet.experts import load_expert
from blood_unet.model import BloodUNet, count_parameters
from blood_unet.predict import Ensemble, TestTimeAugmentation
from blood_unet.preprocessing import make_masks
from blood_unet.data import resize_cells
from blood_unet.training import TrainingConfig, evaluate, fit

RESULTS = Path(__file__).parent / 'results'
WIDTHS = (16, 32, 64, 128)
SETS = ('jiangxi', 'cellavision', 'all_idb2')
VARIANTS = {
    'both gates at the bottleneck': (dict(), dict()),
    'no attention': (dict(attention='none'), dict()),
    'channel attention': (dict(attention='channel'), dict()),
    'spatial attention': (dict(attention='spatial'), dict()),
    'both gates on the skips': (dict(attention_at='skips'), dict()),
    'both gates everywhere': (dict(attention_at='everywhere'), dict()),
    'classes drawn equally often': (dict(), dict(balanced=True)),
    'regions recoloured': (dict(), dict(regions=0.5)),
}


def labelled(cells):
    return dataclasses.replace(
        cells, nucleus=make_masks(cells.images, 'nucleus'), cell=make_masks(cells.images, 'cell')
    )


def scores(network, test, experts):
    "Per-image scores: class right or wrong, nucleus and cell Dice against experts."
    table = evaluate(network, test)
    rows = {
        'accuracy': (table.label == table.predicted).astype(float).to_numpy(),
        'agreement with the recipe, nucleus': table.nucleus_dice.to_numpy(),
    }
    for name, cells in experts.items():
        found = evaluate(network, cells)
        rows |= {f'{name} nucleus': found.nucleus_dice.to_numpy(), f'{name} cell': found.cell_dice.to_numpy()}
    return rows


def crossed(values, n: int = 2000, seed: int = 0):
    "Mean and 95 % interval of `(seeds, images)` values; seeds and images are both drawn again."
    values, rng = np.asarray(values, float), np.random.default_rng(seed)
    k, m = values.shape
    draws = [values[rng.integers(0, k, k)][:, rng.integers(0, m, m)].mean() for _ in range(n)]
    return dict(
        mean=round(float(values.mean()), 5),
        low=round(float(np.quantile(draws, 0.025)), 5),
        high=round(float(np.quantile(draws, 0.975)), 5),
        seeds=k,
        n=m,
    )


def start_from_experts(network, seed):
    """Train first, for 6 epochs, on the expert masks of jiangxi's choosing half.

    The transfer whose use is asked for.
    """
    cells = resize_cells(dataclasses.replace(load_expert('jiangxi', 'choose'), labels=None), 28)
    fit(network, cells, None, TrainingConfig(epochs=6, batch_size=16, seed=seed), progress=False)


def main(seeds: int = 3, train: int = 4000, epochs: int = 6, threads: int = 1):
    torch.set_num_threads(threads)
    cells, test = (
        labelled(load_cells('bloodmnist', 'train', 28, limit=train)),
        labelled(load_cells('bloodmnist', 'test', 28)),
    )
    experts = {name: load_expert(name, 'report') for name in SETS}
    path = RESULTS / 'variants.json'
    plan = dict(
        cells=len(cells),
        test_cells=len(test),
        epochs=epochs,
        widths=WIDTHS,
        seeds=seeds,
        dataset=cells.digest,
        versions=versions(),
    )
    kept, raw = Path('runs') / 'variants', {}
    kept.mkdir(parents=True, exist_ok=True)
    networks = []
    for name, (options, settings) in [*VARIANTS.items(), ('started from expert masks', ({}, {}))]:
        file = kept / f'{name.replace(" ", "_").replace(",", "")}_{seeds}_{len(cells)}_{epochs}.npz'
        if not file.exists() or name == next(iter(VARIANTS)):
            rows = []
            for seed in range(seeds):
                torch.manual_seed(seed)
                network = BloodUNet(widths=WIDTHS, **options)
                if name.startswith('started'):
                    start_from_experts(network, seed)
                fit(
                    network, cells, None, TrainingConfig(epochs=epochs, seed=seed, **settings), progress=False
                )
                if name == next(iter(VARIANTS)):
                    networks.append(network)
                rows.append(scores(network, test, experts))
            np.savez(file, **{k: np.stack([r[k] for r in rows]) for k in rows[0]})
        raw[name] = dict(np.load(file))
        print(name, {k: round(float(v.mean()), 4) for k, v in raw[name].items()}, flush=True)
    raw['three seeds averaged'] = {k: v[None] for k, v in scores(Ensemble(networks), test, experts).items()}
    raw['one network, eight views'] = {
        k: v[None] for k, v in scores(TestTimeAugmentation(networks[0]), test, experts).items()
    }
    base = raw[next(iter(VARIANTS))]

    def pair(name, k):
        return raw[name][k] - (
            base[k][:1]
            if name.startswith('one network')
            else base[k].mean(0, keepdims=True)
            if len(raw[name][k]) == 1
            else base[k]
        )

    rows = {
        name: {k: dict(value=crossed(v), difference=crossed(pair(name, k))) for k, v in values.items()}
        for name, values in raw.items()
    }
    write_json(plan | dict(parameters=count_parameters(BloodUNet(widths=WIDTHS)), variants=rows), path)
    table = pd.DataFrame(
        {name: {k: v['value']['mean'] for k, v in row.items()} for name, row in rows.items()}
    ).T
    print(table.round(4).to_string())


if __name__ == '__main__':
    typer.run(main)
