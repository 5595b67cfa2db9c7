"""How often the intervals of a differential hold the true share; what a smear beside a reference is worth.

python bench/differential.py        # writes results/differential.json and the bundled confusion

The bundled 64 px network over eight views names the validation and the test split of BloodMNIST: the first
are the bundled confusion, of the second smears are mixed: shares are drawn, then true classes, then cells of
these classes, with replacement. Mixtures: `flat`, 3 to 8 classes with flat shares; `clinical`, seven
compositions of blood, varied. Coverage is over the classes that are in a mixture; `absent`: how often an
interval begins at 0 where the class is not in it. The priors are Jeffreys's of the shares and Perks's of the
rows: of nine pairs tried on mixtures of one half of the validation split, with the confusion of the other, a
sparser one of the shares held less and a flat one about as much.

The same in three other laboratories, whose pictures go through `locate` and `canonical_cells`, with classes
of five cells at least. The strength and error of `elsewhere` are chosen by the likelihood of the confusions
of the other two laboratories; what is bundled, by that of all three. Its form was not left out so: it was
preferred to tempered counts of home and to the pooled errors of the other two, and the model was cut, after
all three had been looked at. `own half`: the cells at even positions, named by experts, are known as well,
and smears are mixed of the others; `plain, own half` is the plain interval of those smears.

Alarms: smears of test cells beside 400 healthy ones (`folder`) and beside upper limits (`limits`). `another
person`: healthy shares that vary as a Dirichlet of 40, of neutrophils by .08. Compositions, that variation
and the limits are plausible and round, from no single source.
A quarter of an hour on 2 cores; the answers are kept in data/.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from classification import bundled_answers
from scipy.special import gammaln

import blood_unet
from blood_unet.core import versions
from blood_unet.data import CLASSES, find_data, load_cells
from blood_unet.differential import (
    FIVE_PART,
    FORMAT,
    NUCLEATED,
    Confusion,
    compare_shares,
    count_confusion,
    elsewhere,
    plain_interval,
    share_intervals,
)
from blood_unet.experts import load_expert
from blood_unet.files import atomic_path, write_json
from blood_unet.images import read_image
from blood_unet.metrics import interval
from blood_unet.predict import TestTimeAugmentation, load_networks, predict
from blood_unet.smear import canonical_cells, locate

TOP = Path(__file__).parent
KEPT = TOP.parent / 'data' / 'travel' / 'differential.npz'
LABORATORIES = ('jiangxi', 'cellavision', 'bccd')
SIZES = (50, 100, 400)
GOAL = (0.93, 0.98)
GRID = list(itertools.product((1.5, 2, 3, 4, 6, 8, 12, 20, 50), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))
# shares in per mille, in the order of CLASSES
BLOOD = {
    'healthy': (8, 30, 0, 4, 280, 70, 608, 0),
    'lymphocytosis': (5, 20, 0, 5, 600, 60, 310, 0),
    'left shift': (3, 10, 5, 100, 110, 70, 702, 0),
    'eosinophilia': (10, 200, 0, 10, 210, 70, 500, 0),
    'erythroblasts': (10, 20, 50, 40, 210, 70, 600, 0),
    'monocytosis': (10, 30, 0, 20, 240, 220, 480, 0),
    'neutropenia': (20, 40, 0, 20, 600, 120, 200, 0),
}
# upper limits, in the order of CLASSES but for platelets
LIMITS = dict(zip(NUCLEATED, (0.02, 0.06, 0.0, 0.01, 0.4, 0.1, 0.8)))
SICK = {
    'lymphocytosis': ('lymphocyte', (0.4, 0.6)),
    'left shift': ('immature granulocyte', (0.05, 0.1)),
    'erythroblasts in blood': ('erythroblast', (0.02, 0.05)),
}


# the cells and their names


def home_names() -> dict:
    "Labels and names (N,) of the splits"
    splits = {s: load_cells('bloodmnist', s, 64) for s in ('val', 'test')}
    said = bundled_answers('blood-unet-64', splits)['eight views']
    return {s: (splits[s].labels, said[s].argmax(1)) for s in splits}


def expert_pictures(laboratory):
    cells = load_expert(laboratory)
    for image, label in zip(cells.images, cells.labels):
        yield np.asarray(image), CLASSES.index(cells.classes[label]), None


def bccd_pictures():
    "Fields with exactly one box of a white cell and a class, and that box"
    folder = find_data('bccd')
    boxes = pd.read_csv(folder / 'boxes.csv')
    white = boxes[boxes.kind == 'WBC'].drop_duplicates('file', keep=False).set_index('file').sort_index()
    classes = pd.read_csv(folder / 'labels.csv').set_index('file')['class']
    for box in white[white.index.isin(classes.index)].itertuples():
        yield read_image(folder / 'images' / box.Index), CLASSES.index(classes[box.Index].lower()), box


def wanted_cell(image, located, box):
    "The white cell with its centre in the box, or without a box the one next to the middle; None without one"
    if box is not None:
        low, high = (box.ymin, box.xmin), (box.ymax, box.xmax)
        inside = [c for c in located.white if np.all((low <= c.centre) & (c.centre <= high))]
        return inside[0] if inside else None
    middle = np.array(image.shape[:2]) / 2
    cells = located.white or [c for c in located.cells if c.kind == 'platelet']
    return min(cells, key=lambda c: np.hypot(*(c.centre - middle)), default=None)


def laboratory_names() -> dict:
    "Labels and names (N,) of three laboratories' cells that are found; kept in `KEPT`."
    if not KEPT.exists():
        network, found = TestTimeAugmentation(load_networks('blood-unet-64')[0]), {}
        for name in LABORATORIES:
            images, labels, lost = [], [], 0
            for image, label, box in bccd_pictures() if name == 'bccd' else expert_pictures(name):
                located = locate(image)
                cell = wanted_cell(image, located, box)
                if cell is None:
                    lost += 1
                    continue
                one = located._replace(cells=[cell._replace(kind='white cell')])
                images.append(canonical_cells(image, one).images[0])
                labels.append(label)
            named = predict(network, np.stack(images), device='cpu').class_probability.argmax(1)
            found |= {f'{name}_y': np.array(labels), f'{name}_named': named, f'{name}_lost': np.array(lost)}
            print(name, len(labels), 'cells,', lost, 'lost, right', np.mean(named == labels), flush=True)
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(KEPT) as path, open(path, 'wb') as file:
            np.savez(file, **found)
    with np.load(KEPT, allow_pickle=False) as kept:
        return {name: tuple(kept[f'{name}_{k}'] for k in ('y', 'named', 'lost')) for name in LABORATORIES}


# smears mixed of them


def flat_shares(n, classes, rng):
    "Shares (n, 8): flat over 3 or more of the `classes`"
    shares = np.zeros((n, len(CLASSES)))
    for row in shares:
        k = rng.integers(3, len(classes) + 1)
        row[rng.choice(classes, k, replace=False)] = rng.dirichlet(np.ones(k))
    return shares


def clinical_shares(n, rng):
    "Shares (n, 8): one of `BLOOD` each, varied as a Dirichlet of 100"
    chosen = np.array(list(BLOOD.values()))[rng.integers(0, len(BLOOD), n)] / 1000
    shares = np.where(chosen > 0, rng.standard_gamma(np.maximum(100 * chosen, 1e-9)), 0)
    return shares / shares.sum(1, keepdims=True)


def named_smears(shares, n, labels, named, rng):
    "How many of `n` cells are given each name (N, 8), in smears with true `shares` (N, 8)"
    pools = [named[labels == k] for k in range(len(CLASSES))]
    smears = np.zeros(shares.shape, int)
    for smear, true in zip(smears, rng.multinomial(n, shares)):
        for k in np.flatnonzero(true):
            smear += np.bincount(rng.choice(pools[k], true[k]), minlength=len(CLASSES))
    return smears


def plain_intervals(cells):
    "Share, low and high end, each (N, k), of Wilson's interval of cells (N, k)"
    n = np.maximum(cells.sum(1), 1)
    low, high = np.array([[plain_interval(k, m) for k in row] for row, m in zip(cells, n)]).transpose(2, 0, 1)
    return cells / n[:, None], low, high


def report(found, truth, classes=()) -> dict:
    """How well intervals (share, low, high), each (N, k), hold the `truth` (N, k).

    Means over smears with an interval; `coverage`, `width` over the classes in the mixture, and `by_class`
    where `classes` (k,) are named; `error`: mean of the absolute error of the share.
    """
    share, low, high = found
    held, there = (low <= truth) & (truth <= high), truth > 0
    by_smear = (held & there).sum(1) / there.sum(1)
    by_class = {
        c: dict(coverage=round(float(h[t].mean()), 4), n=int(t.sum()))
        for c, h, t in zip(classes, held.T, there.T)
        if t.any()
    }
    return dict(
        coverage=interval(by_smear[np.isfinite(by_smear)], n_resamples=1000),
        absent=round(float(held[~there].mean()), 4) if (~there).any() else None,
        width=round(float((high - low)[there].mean()), 4),
        error=round(float(np.abs(share - truth).mean()), 5),
        by_class=by_class,
    )


def both(smears, shares, classes, confusions, seed, chains) -> dict:
    "`report` of the plain interval and of ours with each of `confusions`"
    chosen = [CLASSES.index(name) for name in classes]
    truth = shares[:, chosen] / shares[:, chosen].sum(1, keepdims=True)
    said = {'plain': report(plain_intervals(smears[:, chosen]), truth, classes)}
    for name, confusion in confusions.items():
        parts = [
            share_intervals(smears[i : i + 25], confusion, classes, seed + i, chains)
            for i in range(0, len(smears), 25)
        ]
        said[name] = report([np.concatenate(part) for part in zip(*parts)], truth, classes)
    return said


def at_home(names, mixtures, chains, seed) -> dict:
    labels, named = names['test']
    home, found = count_confusion(*names['val']), {}
    for kind, classes in (('flat', CLASSES), ('clinical', NUCLEATED)):
        found[kind] = {}
        for n in SIZES:
            rng = np.random.default_rng([seed, n, len(classes)])
            shares = (
                flat_shares(mixtures, np.arange(8), rng) if kind == 'flat' else clinical_shares(mixtures, rng)
            )
            smears = named_smears(shares, n, labels, named, rng)
            found[kind][str(n)] = both(smears, shares, classes, {'ours': home}, seed, chains)
            print(kind, n, {k: v['coverage']['mean'] for k, v in found[kind][str(n)].items()}, flush=True)
    return found


# other laboratories


def likelihood(confusion: Confusion, counts) -> float:
    "Log likelihood of counts (8, 8) by the Dirichlets of a confusion's rows (Dirichlet-multinomial)"
    a = confusion.rows
    whole = gammaln(a.sum(1)) - gammaln((a + counts).sum(1))
    return float((whole + (gammaln(a + counts) - gammaln(a)).sum(1)).sum())


def chosen_by(counts: list) -> tuple:
    "The strength and error of `GRID` that make confusions of laboratories likeliest"
    return max(GRID, key=lambda pair: sum(likelihood(elsewhere(None, *pair), c) for c in counts))


def in_laboratories(names, mixtures, chains, seed) -> dict:
    counts = {lab: count_confusion(*said[:2]).counts for lab, said in names.items()}
    strength, error = chosen_by(list(counts.values()))
    found = dict(bundled=dict(strength=strength, error=error), laboratories={})
    for lab, (labels, named, lost) in names.items():
        strength, error = chosen_by([c for other, c in counts.items() if other != lab])
        away = elsewhere(None, strength, error)
        even = np.arange(len(labels)) % 2 == 0
        own = elsewhere(count_confusion(labels[even], named[even]), strength, error)
        about = dict(cells=len(labels), lost=int(lost), right=interval(named == labels))
        row = about | dict(strength=strength, error=error, confusion=counts[lab].astype(int).tolist())
        for n in SIZES:
            rng = np.random.default_rng([seed, n])
            classes = np.flatnonzero(np.bincount(labels, minlength=8) >= 5)
            shares = flat_shares(mixtures, classes, rng)
            smears = named_smears(shares, n, labels, named, rng)
            said = both(smears, shares, FIVE_PART, {'ours': None, 'elsewhere': away}, seed, chains)
            rest = named_smears(shares, n, labels[~even], named[~even], rng)
            halves = both(rest, shares, FIVE_PART, {'elsewhere': own}, seed, chains)
            row[str(n)] = said | {f'{name}, own half': told for name, told in halves.items()}
            print(lab, n, {k: v['coverage']['mean'] for k, v in row[str(n)].items()}, flush=True)
        found['laboratories'][lab] = row
    return found


# alarms


def alarms(shares, class_name, n, repeats, names, rng) -> dict:
    "How often smears with true `shares` (8,) or (repeats, 8) flag `class_name`; None: any class"
    (labels, named), whole = names, [CLASSES.index(name) for name in NUCLEATED]
    healthy = np.array(BLOOD['healthy']) / 1000
    smears = named_smears(np.broadcast_to(shares, (repeats, 8)), n, labels, named, rng)
    folders = named_smears(np.broadcast_to(healthy, (repeats, 8)), 400, labels, named, rng)
    said = {'folder': [], 'limits': []}
    for smear, folder in zip(smears, folders):
        smear = dict(zip(NUCLEATED, smear[whole]))
        said['folder'].append(compare_shares(smear, dict(zip(NUCLEATED, folder[whole]))).too_high)
        said['limits'].append(compare_shares(smear, LIMITS).too_high)
    flags = {k: np.array(v) for k, v in said.items()}
    asked = None if class_name is None else NUCLEATED.index(class_name)
    return {k: round(float((v.any(1) if asked is None else v[:, asked]).mean()), 4) for k, v in flags.items()}


def sick(share, class_name):
    "Shares (8,) of healthy blood, of which one class has been given a `share`"
    healthy, k = np.array(BLOOD['healthy']) / 1000, CLASSES.index(class_name)
    rest = np.where(np.arange(8) == k, 0, healthy)
    return np.where(np.arange(8) == k, share, rest * (1 - share) / rest.sum())


def all_alarms(names, repeats, seed) -> dict:
    healthy = np.array(BLOOD['healthy']) / 1000
    sizes, found = (50, 100, 200, 400), {'repeats': repeats, 'false': {}, 'another person': {}, 'power': {}}
    for n in sizes:
        rng = np.random.default_rng([seed, n])
        found['false'][str(n)] = alarms(healthy, None, n, repeats, names, rng)
        persons = np.where(healthy > 0, rng.standard_gamma(np.maximum(40 * healthy, 1e-9), (repeats, 8)), 0)
        persons /= persons.sum(1, keepdims=True)
        found['another person'][str(n)] = alarms(persons, None, n, repeats, names, rng)
        for disease, (class_name, levels) in SICK.items():
            for share in levels:
                row = found['power'].setdefault(f'{disease}, {share:.0%}', {})
                row[str(n)] = alarms(sick(share, class_name), class_name, n, repeats, names, rng)
        print(
            n,
            found['false'][str(n)],
            found['another person'][str(n)],
            {k: v[str(n)] for k, v in found['power'].items()},
            flush=True,
        )
    return found


def main(mixtures: int = 1000, chains: int = 200, repeats: int = 400, seed: int = 0):
    names = home_names()
    home = count_confusion(*names['val'])
    title = "BloodMNIST's validation cells, as blood-unet-64 names them over eight views"
    about = dict(format=FORMAT, classes=list(CLASSES), title=title, counts=home.counts.astype(int).tolist())
    write_json(about, Path(blood_unet.__file__).parent / 'weights' / 'confusion-bloodmnist.json')
    result = dict(mixtures=mixtures, chains=chains, seed=seed, goal=list(GOAL), versions=versions())
    result |= dict(alarms=all_alarms(names['test'], repeats, seed))
    result |= dict(home=at_home(names, mixtures, chains, seed))
    result |= in_laboratories(laboratory_names(), mixtures // 5, chains, seed)
    write_json(result, TOP / 'results' / 'differential.json')


if __name__ == '__main__':
    typer.run(main)
