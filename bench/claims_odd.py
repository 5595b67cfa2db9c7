"""Evidence for the ledger of claims: one part of a healthy cell changed; do explanations help to see it?

python bench/claims_odd.py features     results/explained_features.json: values of parts as features
python bench/claims_odd.py areas        results/odd_areas.json: the changed pixels, by a map of the score

The changes are those of `odd_parts.py`, on other cells than its own. A quarter of an hour and minutes on one
core. What each measures was written into nbs/claims.yaml before this was run.
"""

import numpy as np
import typer
from skimage.color import rgb2gray
from skimage.filters import sobel

from claims_kept import keep, load
from claims_levels import of_draws
from claims_parts import values_of_parts
from blood_unet.auxiliary import measurements
from blood_unet.cells import outline_cells
from blood_unet.data import load_cells
from blood_unet.images import to_tensor
from blood_unet.metrics import auroc, interval
from blood_unet.novelty import class_distance
from blood_unet.odd_parts import part_oddness
from blood_unet.planted import EDITS, fits, plant
from blood_unet.predict import predict
from blood_unet.protocols import LEFT_OUT
from blood_unet.reference import haematological_measurements
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask

CHANGES = (
    'nucleus grown',
    'nucleus darker',
    'granules flattened',
    'cytoplasm darker',
    'cytoplasm bluer',
    'vacuole',
)
SHAMS = 'sham: noise in the nucleus', 'sham: noise in the cytoplasm'
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def home_and_asked(each: int = 60) -> tuple:
    "Validation cells at 64 px, six classes: the reference, and every second one of the next."
    cells = load_cells('bloodmnist', 'val', 64)
    kinds = [k for k, name in enumerate(cells.classes) if name not in LEFT_OUT]
    places = [np.flatnonzero(cells.labels == k) for k in kinds]
    home, asked = (
        [own[a:b:step] for own in places] for a, b, step in ((0, each, 1), (each + 1, 2 * each, 2))
    )
    return cells.subset(np.concatenate(home)), cells.subset(np.concatenate(asked))


def outlines(network, images) -> tuple:
    "Nuclei and cells over eight views, two lists of bool (H, W)."
    return tuple(zip(*outline_cells(list(images), [network], device='cpu')[0]))


def features_of_cells(network, images) -> dict:
    "Three tables: measurements (N, 13), values of parts (N, 20), and 20 other measurements."
    nucleus, cell = outlines(network, images)
    named = predict(network, images, device='cpu').class_probability.argmax(1)
    goals = HardDice(frozen_mask(network, to_tensor(images))), ClassLogOdds(named)
    values = [values_of_parts(network, images, goal) for goal in goals]
    explained = np.concatenate([v[k] for v in values for k in ('shap', 'len')], 1)
    others = measurements(images, nucleus, cell).to_numpy(float)[:, : explained.shape[1]]
    own = haematological_measurements(images, nucleus, cell).to_numpy()
    return dict(measurements=own, explained=explained, others=others)


def distances(home, home_labels, asked, labels):
    "Mahalanobis distance (N,) of rows from healthy cells of their class; what is missing is its median."
    found = np.zeros(len(asked))
    for label in np.unique(labels):
        own, rows = home[home_labels == label], labels == label
        usual = np.nan_to_num(np.nanmedian(own, 0))
        own, new = (np.where(np.isnan(a), usual, a) for a in (own, asked[rows]))
        spread = np.maximum(own.std(0), 1e-9)
        found[rows] = class_distance(own / spread, np.zeros(len(own)), new / spread)
    return found


def area(clean, changed, pick):
    "Mean AUROC of changes (edits, cells) beside the same cells before, of the cells that were picked."
    truth = np.repeat([True, False], len(pick))
    return np.mean([auroc(truth, np.concatenate([row[pick], clean[pick]])) for row in changed])


@app.command()
def features(each: int = 60, draws: int = 20, seed: int = 0):
    "AUROC of a detector of planted changes with the values of parts, minus that without."
    network, about = load('blood-unet-64')
    home, asked = home_and_asked(each)
    pairs = list(zip(*outlines(network, asked.images)))
    doses = [(name, EDITS[name].doses[len(EDITS[name].doses) // 2]) for name in CHANGES]
    room = [i for i, pair in enumerate(pairs) if all(fits(*pair, *one) for one in doses)]
    images, labels = asked.images[room], asked.labels[room]
    pictures = [images]
    for name, dose in doses:
        made = [plant(asked.images[i], *pairs[i], name, dose, seed + i) for i in room]
        pictures.append(np.stack(made))
    known = features_of_cells(network, home.images)
    tables = []
    for one in pictures:
        tables.append(features_of_cells(network, one))
        print(len(tables), 'of', len(pictures), flush=True)
    rng = np.random.default_rng(seed)

    def detect(more=None, random=None):
        def joined(table):
            columns = [table['measurements']] + ([table[more]] if more else [])
            columns += [rng.normal(size=(len(columns[0]), random))] if random else []
            return np.concatenate(columns, 1)

        own = joined(known)
        return np.stack([distances(own, home.labels, joined(t), labels) for t in tables])

    width = tables[0]['explained'].shape[1]
    found = dict(alone=detect(), explained=detect('explained'), others=detect('others'))
    blind = [detect(random=width) for _ in range(draws)]
    told = {name: of_draws(lambda i: area(s[0], s[1:], i), len(room)) for name, s in found.items()}
    told['random'] = of_draws(lambda i: np.mean([area(s[0], s[1:], i) for s in blind]), len(room), draws=200)
    base = found['alone']
    for name in ('explained', 'others'):
        s = found[name]
        told[f'{name}_minus_alone'] = of_draws(
            lambda i: area(s[0], s[1:], i) - area(base[0], base[1:], i), len(room)
        )
    keep('explained_features', about | dict(columns=width, doses=dict(doses), **told), seed)


def painted(shares, masks):
    "The share (2,) of nucleus and cytoplasm on their pixels."
    nucleus, cell = masks
    return np.where(nucleus, shares[0], np.where(cell, shares[1], 0))


def controls(image) -> dict:
    "Maps that know nothing of the score."
    grey = rgb2gray(image)
    rows, columns = np.indices(grey.shape)
    centre = -np.hypot(rows - (grey.shape[0] - 1) / 2, columns - (grey.shape[1] - 1) / 2)
    return dict(darkness=-grey, centre=centre, edges=sobel(grey))


@app.command()
def areas(each: int = 60, seed: int = 0):
    "AUROC over pixels for those that were changed, of the score's shares painted on the parts."
    network, about = load('blood-unet-64')
    home, asked = home_and_asked(each)
    healthy = haematological_measurements(home.images, *outlines(network, home.images)).to_numpy()

    def maps(images, labels):
        masks = list(zip(*outlines(network, images)))
        values = haematological_measurements(images, *zip(*masks)).to_numpy()
        shares = [part_oddness(v[None], healthy[home.labels == k])[0] for v, k in zip(values, labels)]
        return [painted(np.nan_to_num(s), m) for s, m in zip(shares, masks)]

    pairs = list(zip(*outlines(network, asked.images)))
    before, found = maps(asked.images, asked.labels), {}
    for name in CHANGES + SHAMS:
        dose = EDITS[name].doses[-1]
        rows = [i for i, pair in enumerate(pairs) if fits(*pair, name, dose)]
        made = [plant(asked.images[i], *pairs[i], name, dose, seed + i) for i in rows]
        truth = [(new != asked.images[i]).any(2).ravel() for i, new in zip(rows, made)]
        kept = [k for k, t in enumerate(truth) if 0 < t.sum() < t.size]
        heat, blind = maps(np.stack(made), asked.labels[rows]), [controls(new) for new in made]
        given = dict(map=heat, before=[before[i] for i in rows])
        given |= {which: [one[which] for one in blind] for which in blind[0]}
        row = {k: interval([auroc(truth[i], v[i].ravel()) for i in kept]) for k, v in given.items()}
        found[name] = dict(dose=dose, part=EDITS[name].part, **row)
        print(name, {k: v['mean'] for k, v in row.items()}, flush=True)
    keep('odd_areas', about | dict(changes=found), seed)


if __name__ == '__main__':
    app()
