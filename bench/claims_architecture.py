"""Evidence for the ledger of claims: small networks with and without gates, with and without skips.

python bench/claims_architecture.py [ROW ...]     results/architecture_options.json, all rows or those named

Reads the networks that recipe_networks.py keeps; a row whose networks are not all there is left out.
What each measures was written into nbs/claims.yaml before the networks were trained. Intervals are of a
bootstrap that draws networks (seeds) and images anew, crossed.
"""

import json
from functools import cache

import numpy as np
import torch
import typer
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import center_of_mass

import recipe_networks as trained
from claims_kept import RESULTS, keep
from variants import SETS
from blood_unet.data import Cells, load_cells
from blood_unet.experts import load_expert
from blood_unet.metrics import crossed_interval, dice
from blood_unet.model import BloodUNet
from blood_unet.predict import predict
from blood_unet.preprocessing import make_masks

PX = 28  # distances are told in pictures of this side


# networks, pictures, numbers


def folders(name: str) -> list:
    "Where the networks of a recipe lie, one a seed."
    place = trained.HOME / name.replace(' ', '_')
    return [place / str(seed) for seed in range(trained.RECIPES[name].seeds)]


def each(name: str, measure):
    "A measure of every network of a recipe, stacked: (seeds, ...)."
    networks = [BloodUNet.from_pretrained(folder) for folder in folders(name)]
    if not trained.RECIPES[name].skips:
        networks = [trained.cut_skips(network) for network in networks]
    return np.stack([measure(network) for network in networks])


def facts(name: str) -> list:
    "What the training of each network of a recipe said."
    return [json.loads((folder / 'config.json').read_text())['facts'] for folder in folders(name)]


def between(first, second, seed: int = 0, draws: int = 2000) -> dict:
    "Mean of `first` minus that of `second`, (seeds, images) each, of the same networks; crossed interval."
    rng, k = np.random.default_rng(seed), len(first)
    networks, means = rng.multinomial(k, np.full(k, 1 / k), draws) / k, []
    for values in (first, second):
        n = values.shape[1]
        images = rng.multinomial(n, np.full(n, 1 / n), draws) / n
        means.append(((networks @ values) * images).sum(1))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    told = dict(mean=first.mean() - second.mean(), low=low, high=high)
    return {key: round(float(v), 5) for key, v in told.items()} | dict(networks=k)


@cache
def experts():
    "The report halves of the three expert sets as one list, and where each set ends."
    sets = [load_expert(name, 'report') for name in SETS]
    lists = [[x for cells in sets for x in getattr(cells, key)] for key in ('images', 'nucleus', 'cell')]
    return Cells(lists[0], nucleus=lists[1], cell=lists[2]), np.cumsum([len(cells) for cells in sets])[:-1]


def nucleus_dice(network):
    "Nucleus Dice of each expert picture."
    cells, _ = experts()
    return np.array([dice(a, b) for a, b in zip(predict(network, cells.images).nucleus, cells.nucleus)])


def right(cells):
    "A measure: whether each cell is named rightly."
    return lambda network: predict(network, cells.images).class_probability.argmax(1) == cells.labels


def is_trained(begins) -> bool:
    "Are all networks of the recipes there whose names begin so?"
    names = [name for name in trained.RECIPES if name.startswith(begins)]
    return all((folder / 'config.json').exists() for name in names for folder in folders(name))


def settings(rows: dict) -> dict:
    "How the networks of some rows were built and trained, by the names of their recipes."
    names = [n for n in trained.RECIPES if any(n.startswith(begins) for begins in rows.values())]
    return {name: trained.RECIPES[name]._asdict() for name in names}


def judge(result: str, rows: dict, asked=None):
    """Measure the rows of a result whose networks are there, and keep them beside those kept before.

    `rows`: functions with the beginnings of the names of their recipes; `asked`: names, by default all.
    """
    torch.set_num_threads(1)
    path = RESULTS / f'{result}.json'
    found = json.loads(path.read_text())['rows'] if path.exists() else {}
    cells = load_cells('bloodmnist', 'train', 28, limit=4000)
    for row, names in rows.items():
        if asked and row.__name__ not in asked:
            continue
        if is_trained(names):
            found[row.__name__] = row()
            keep(result, dict(rows=found, recipes=settings(rows), dataset=cells.digest))
        else:
            print(f'{row.__name__}: its networks are not all trained yet, run recipe_networks.py')


# gates and skips


def distance95(found, truth) -> float:
    "95th percentile of the distances of two outlines (HD95) in px; the diagonal where a mask is empty."
    if not found.any():
        return float(np.hypot(*truth.shape))
    masks = (torch.from_numpy(mask)[None, None] for mask in (found, truth))
    return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95))


def apart(found, truth) -> float:
    "Distance of the centres of two masks in px; the diagonal where one is empty."
    if not found.any():
        return float(np.hypot(*truth.shape))
    return float(np.hypot(*np.subtract(center_of_mass(found), center_of_mass(truth))))


MEASURES = (dice, distance95, apart)


def outlines(network):
    "Dice, HD95 and distance of centres, of nucleus and cell, in each expert picture: (3, 2, images)."
    cells, _ = experts()
    found = predict(network, cells.images)
    rows = np.zeros((len(MEASURES), 2, len(cells)))
    for i, image in enumerate(cells.images):
        for m, part in enumerate(('nucleus', 'cell')):
            pair = getattr(found, part)[i], getattr(cells, part)[i]
            rows[:, m, i] = [measure(*pair) for measure in MEASURES]
        rows[1:, :, i] *= PX / max(image.shape[:2])
    return rows


def hard_for_recipe():
    "Whether our recipe reaches less nucleus Dice than in the median picture of the set: bool (images,)."
    cells, ends = experts()
    reached = np.array([dice(a, b) for a, b in zip(make_masks(cells.images), cells.nucleus)])
    return np.concatenate([part < np.median(part) for part in np.split(reached, ends)])


def attention():
    "The gates at the bottleneck beside none."
    gates, none = (each(name, outlines) for name in ('base', 'no attention'))
    gain, hard = (gates - none)[:, 0, 0], hard_for_recipe()
    found = dict(hard_minus_easy=between(gain[:, hard], gain[:, ~hard]), dice=crossed_interval(gain))
    found |= dict(hard=crossed_interval(gain[:, hard]), easy=crossed_interval(gain[:, ~hard]))
    centres = {'with gates': gates[:, 2, 0], 'without': none[:, 2, 0]}
    return found | dict(
        centre_gained=crossed_interval(none[:, 2, 0] - gates[:, 2, 0]),
        centre={key: crossed_interval(v) for key, v in centres.items()},
    )


def skips():
    "The skips beside zeros in their place."
    whole, cut = (each(name, outlines) for name in ('base', 'no skips'))
    found = {}
    for m, part in enumerate(('nucleus', 'cell')):
        for k, (name, sign) in enumerate((('dice', 1), ('hd95', -1))):
            gained = sign * (whole - cut)[:, k, m]
            rows = {'with skips': whole[:, k, m], 'without': cut[:, k, m], 'gained': gained}
            found[f'{part} {name}'] = {key: crossed_interval(v) for key, v in rows.items()}
    return found


ROWS = {attention: ('base', 'no attention'), skips: ('base', 'no skips')}


def main(rows: list[str] = typer.Argument(None)):
    judge('architecture_options', ROWS, rows)


if __name__ == '__main__':
    typer.run(main)
