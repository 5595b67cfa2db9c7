"""The class that `blood-unet segment` names for cells of other laboratories, as they come.

    python bench/laboratories.py        # writes results/laboratories.json

Three sets on which no network of the package was trained: 200 cells of Jiangxi and 50 of CellaVision, whole
pictures, and BCCD, whole fields: every field with exactly one box of a white cell and a class in labels.csv.
Home is BloodMNIST's test split at 64 px. Whole sets, not halves. What was chosen while looking at these sets,
and how, is told where it was chosen: the room `doubt` leaves one laboratory out.

Of a picture of one cell, the cell nearest to its middle is asked for; of a field, the one whose box has its
middle in the expert's. A cell that is not found is wrong, and not answered. Eight classes: the most probable
of all. Five: the most probable of neutrophil, eosinophil, basophil, lymphocyte and monocyte. A cell is
answered if its class is `certain`. BCCD is told once more without the cells of `DOUBTED`.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from tqdm.auto import tqdm

from blood_unet.core import DataError, sha256_arrays, sha256_file, versions
from blood_unet.data import CLASSES, Cells, find_data, load_cells
from blood_unet.differential import FIVE_PART
from blood_unet.experts import load_expert
from blood_unet.files import read_results, write_json
from blood_unet.images import read_image
from blood_unet.metrics import interval
from blood_unet.model import checkpoint_folder
from blood_unet.predict import load_networks
from blood_unet.segment import CHANCES, segment_images

RESULTS = Path(__file__).parent / 'results'
NETWORKS = ('blood-unet-28', 'blood-unet-64')
# Cells of BCCD whose label looks wrong to us, who are no haematologists: as eosinophils, sharp cells without
# a coarse granule in an even, pale cytoplasm; a lymphocyte with a bent nucleus in grey cytoplasm; a monocyte
# with the nucleus and cytoplasm of a neutrophil. We looked at cells and labels, not at what is said of each
# cell; that eosinophils are often called neutrophils was known.
DOUBTED = {
    'eosinophil': (58, 64, 108, 109, 114, 141, 143, 144, 149, 177, 200, 202, 208, 226, 274),
    'lymphocyte': (206,),
    'monocyte': (110,),
}
FIVE = [CLASSES.index(name) for name in FIVE_PART]


def bccd_fields() -> tuple:
    """`(cells, boxes)`: whole fields of BCCD with one white cell and its class, and its expert box.

    In the order of their names; boxes are left, top, right, bottom in px. Raises `DataError` if the set is
    not there."""
    folder = find_data('bccd')
    if folder is None:
        raise DataError('no folder bccd', 'the set BCCD', 'set BLOOD_UNET_DATA to the folder that holds it')
    boxes = pd.read_csv(folder / 'boxes.csv')
    white = boxes[boxes.kind == 'WBC'].drop_duplicates('file', keep=False).set_index('file').sort_index()
    classes = pd.read_csv(folder / 'labels.csv').set_index('file')['class']
    white = white[white.index.isin(classes.index)]
    images = [read_image(folder / 'images' / name) for name in white.index]
    labels = np.array([CLASSES.index(classes[name]) for name in white.index])
    cells = Cells(images, labels, list(white.index), source='bccd')
    return cells, white[['xmin', 'ymin', 'xmax', 'ymax']].to_numpy()


def doubted(cells) -> np.ndarray:
    "Which of some named cells are in `DOUBTED`, bool (n,)."
    those = {(f'BloodImage_{n:05d}.jpg', name) for name, numbers in DOUBTED.items() for n in numbers}
    return np.array([(file, CLASSES[k]) in those for file, k in zip(cells.names, cells.labels)])


def asked_row(rows, box=None):
    "Of the rows of a picture the one of the cell that is asked for, or None; `box`: the expert's."
    rows = rows[rows.cell.notna()]
    if box is not None:
        across, down = (rows.left + rows.right) / 2, (rows.top + rows.bottom) / 2
        rows = rows[across.between(box[0], box[2]) & down.between(box[1], box[3])]
    return rows.iloc[0] if len(rows) else None


def answers(cells, boxes, networks, device) -> pd.DataFrame:
    "A row for each picture: what is said of the cell that is asked for; NaN where it was not found."
    told = []
    for start in tqdm(range(0, len(cells.images), 32), leave=False):
        images = list(cells.images[start : start + 32])
        table = segment_images(images, networks, device).table
        for i in range(len(images)):
            row = asked_row(table[table.image == i], None if boxes is None else boxes[start + i])
            told.append({} if row is None else row.to_dict())
    return pd.DataFrame(told)


def mean_of(values):
    "`interval` of values, or None where fewer than two leave nothing to resample."
    return interval(values) if len(values) > 1 else None


def balanced(right, labels, least: int = 1, seed: int = 0, resamples: int = 2000) -> dict:
    """Mean over classes of the share of right answers, with a 95 % interval; of classes of `least` cells.

    Cells are drawn again within their class. A class of one cell weighs as much as any and adds no width."""
    parts = [right[labels == label] for label in np.unique(labels) if (labels == label).sum() >= least]
    rng = np.random.default_rng(seed)
    drawn = np.mean([rng.binomial(len(part), part.mean(), resamples) / len(part) for part in parts], axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    numbers = dict(mean=np.mean([part.mean() for part in parts]), low=low, high=high)
    return {k: round(float(v), 5) for k, v in numbers.items()} | dict(n=len(labels))


def confusion(labels, answers) -> dict:
    "`{class: {answer: cells}}` by name, without zeros; -1 is a cell that was not found."
    counts = {}
    for label, answer in zip(labels, answers):
        counts.setdefault(CLASSES[label], Counter())['not found' if answer < 0 else CLASSES[answer]] += 1
    return {name: dict(found) for name, found in counts.items()}


def shares(told, labels) -> dict:
    "The shares to quote of what is told (a row a cell) of labelled cells."
    named = np.array([CLASSES.index(name) if isinstance(name, str) else -1 for name in told['class']])
    chances = told[CHANCES].to_numpy(float)
    seen = ~np.isnan(chances).any(1)
    certain = told.certain.fillna(False).to_numpy(bool)
    wrong, known, sure = named != labels, np.isin(labels, FIVE), chances.max(1)
    right_of_five = (best_of_five(chances) == labels)[known]
    return dict(
        eight=interval(~wrong),
        five=interval(right_of_five),
        eight_balanced=balanced(~wrong, labels),
        five_balanced=balanced(right_of_five, labels[known], least=5),
        certain=interval(certain),
        wrong_and_certain=interval(wrong & certain),
        wrong_of_certain=mean_of(wrong[certain]),
        probability_of_wrong=mean_of(sure[wrong & seen]),
        probability_of_right=mean_of(sure[~wrong & seen]),
    )


def best_of_five(chances):
    "The most probable of `FIVE` for each row (8,); -1 where there are no chances."
    best = np.array(FIVE)[np.nan_to_num(chances)[:, FIVE].argmax(1)]
    return np.where(np.isnan(chances).any(1), -1, best)


def measure(cells, boxes, networks, device: str) -> dict:
    """What the class of `blood-unet segment` is worth on labelled cells: `row` to quote, and its grounds.

    `without_doubted`: the row without the cells of `DOUBTED`, where the set has any."""
    told, labels = answers(cells, boxes, networks, device), cells.labels
    named = np.array([CLASSES.index(name) if isinstance(name, str) else -1 for name in told['class']])
    of_five = best_of_five(told[CHANCES].to_numpy(float))
    certain, known = told.certain.fillna(False).to_numpy(bool), np.isin(labels, FIVE)
    kept = ~doubted(cells)
    again = {} if kept.all() else dict(without_doubted=shares(told[kept], labels[kept]))
    return again | dict(
        row=shares(told, labels),
        source=cells.source,
        digest=sha256_arrays(np.array(cells.names), list(cells.images), labels),
        n=len(cells),
        not_found=int((named < 0).sum()),
        classes=dict(Counter(CLASSES[label] for label in labels)),
        confusion=dict(eight=confusion(labels, named), five=confusion(labels[known], of_five[known])),
        confusion_of_certain=confusion(labels[certain], named[certain]),
        scale=dict(Counter(told.scale.fillna('not found'))),
    )


def main(
    model: str = 'auto',
    home: int = 0,
    seed: int = 0,
    device: str = 'auto',
    threads: int = 2,
    only: str = None,
):
    """Measure all four sets.

    `home`: how many images of BloodMNIST's test split, drawn by `seed`, or 0 for all; `only`: the set that is
    measured again, the others' rows are kept."""
    torch.set_num_threads(threads)
    networks = load_networks(model, device)
    home_cells = load_cells('bloodmnist', 'test', 64, limit=home or None, seed=seed)
    sets = {name: (load_expert(name), None) for name in ('jiangxi', 'cellavision')}
    sets |= dict(bccd=bccd_fields(), home=(home_cells, None))
    rows = {} if only is None else read_results('laboratories')['sets']
    for name, (cells, boxes) in sets.items():
        if only not in (None, name):
            continue
        rows[name] = measure(cells, boxes, networks, device)
        found = rows[name]['row']
        print(name, *(f'{k}: {list(v.values()) if v else None}' for k, v in found.items()), sep='\n  ')
        print(rows[name]['confusion']['eight'], rows[name]['confusion_of_certain'], flush=True)
    names = NETWORKS if model == 'auto' else (model,)
    write_json(
        dict(
            model=model,
            networks={n: sha256_file(checkpoint_folder(n) / 'model.safetensors') for n in names},
            recipe=dict(home_images=len(home_cells), home_seed=seed, bootstrap_seed=0),
            sets=rows,
            versions=versions(),
        ),
        RESULTS / 'laboratories.json',
    )


if __name__ == '__main__':
    typer.run(main)
