"""The class that `blood-unet segment` names for cells of other laboratories, as they come.

    python bench/laboratories.py        # writes results/laboratories.json

Three sets on which no network of the package was trained: 200 cells of Jiangxi and 50 of CellaVision, whole
pictures, and BCCD cells, one from every field with exactly one box of a white cell and a class in labels.csv.
Home is BloodMNIST's test split at 64 px. Whole sets, not halves: nothing is chosen here.

A BCCD cell is cut as a square of `side` pixels about the centre of its box. Where that square would leave the
field it is shifted back inside, so that every pixel was seen by a camera and none is padded; such a cell is
off centre. Boxes are drawn loosely, and many are larger than the square. The result counts both.

Eight classes: the most probable of all. Five: the most probable of neutrophil, eosinophil, basophil,
lymphocyte and monocyte, on the cells of these five. A cell is answered if its line has no warning.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from blood_unet.core import DataError, sha256_arrays, sha256_file, versions
from blood_unet.data import CLASSES, Cells, find_data, load_cells
from blood_unet.experts import load_expert
from blood_unet.files import write_json
from blood_unet.images import read_image
from blood_unet.metrics import interval
from blood_unet.model import checkpoint_folder
from blood_unet.segment import segment_images

RESULTS = Path(__file__).parent / 'results'
NETWORKS = ('blood-unet-28', 'blood-unet-64')
FIVE = [CLASSES.index(name) for name in ('neutrophil', 'eosinophil', 'basophil', 'lymphocyte', 'monocyte')]


def square(box, height: int, width: int, side: int) -> tuple:
    "`(top, left)` of a square of `side` pixels about the centre of a box, shifted to lie inside the field."
    top = round((box.ymin + box.ymax - side) / 2)
    left = round((box.xmin + box.xmax - side) / 2)
    return min(max(top, 0), height - side), min(max(left, 0), width - side)


def bccd_cells(side: int = 220) -> tuple:
    """`(cells, facts)`: the cells of BCCD, cut as above, in the order of their names, and counts of odd cuts.

    Raises `DataError` if the set is not there."""
    folder = find_data('bccd')
    if folder is None:
        raise DataError('no folder bccd', 'the set BCCD', 'set BLOOD_UNET_DATA to the folder that holds it')
    boxes = pd.read_csv(folder / 'boxes.csv')
    white = boxes[boxes.kind == 'WBC'].drop_duplicates('file', keep=False).set_index('file').sort_index()
    classes = pd.read_csv(folder / 'labels.csv').set_index('file')['class']
    white = white[white.index.isin(classes.index)]
    images = []
    facts = Counter()
    for box in white.itertuples():
        field = read_image(folder / 'images' / box.Index)
        top, left = square(box, *field.shape[:2], side)
        images.append(field[top : top + side, left : left + side])
        off = max(abs(top + (side - box.ymin - box.ymax) / 2), abs(left + (side - box.xmin - box.xmax) / 2))
        facts['shifted'] += off >= 1
        facts['box_larger_than_square'] += max(box.xmax - box.xmin, box.ymax - box.ymin) > side
    names = list(white.index)
    labels = np.array([CLASSES.index(classes[name]) for name in names])
    return Cells(images, labels, names, source='bccd'), {name: int(n) for name, n in facts.items()}


def mean_of(values):
    "`interval` of values, or None where fewer than two leave nothing to resample."
    return interval(values) if len(values) > 1 else None


def balanced(right, labels, seed: int = 0, resamples: int = 2000) -> dict:
    """Mean over classes of the share of right answers, with a 95 % interval; classes of `labels` alone count.

    Cells are drawn again within their class. A class of one cell weighs as much as any and adds no width."""
    parts = [right[labels == label] for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    drawn = np.mean([rng.binomial(len(part), part.mean(), resamples) / len(part) for part in parts], axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    numbers = dict(mean=np.mean([part.mean() for part in parts]), low=low, high=high)
    return {k: round(float(v), 5) for k, v in numbers.items()} | dict(n=len(labels))


def confusion(labels, answers) -> dict:
    "`{class: {answer: cells}}` by name, without zeros."
    counts = {}
    for label, answer in zip(labels, answers):
        counts.setdefault(CLASSES[label], Counter())[CLASSES[answer]] += 1
    return {name: dict(found) for name, found in counts.items()}


def measure(cells, model: str, device: str) -> dict:
    "What the class of `blood-unet segment` is worth on labelled cells: `row` to quote, and its grounds."
    found = segment_images(list(cells.images), model=model, device=device)
    probability = np.asarray(found.class_probability)
    answers = probability.argmax(1)
    if [CLASSES[a] for a in answers] != list(found.table['class']):
        raise DataError('a class in the table that is not the most probable', 'that one', 'measure the table')
    labels = cells.labels
    wrong = answers != labels
    answered = (found.table.warning.fillna('') == '').to_numpy()
    sure = probability.max(1)
    known = np.isin(labels, FIVE)
    of_five = np.array(FIVE)[probability[known][:, FIVE].argmax(1)]
    right_of_five = of_five == labels[known]
    row = dict(
        eight=interval(~wrong),
        five=interval(right_of_five),
        eight_balanced=balanced(~wrong, labels),
        five_balanced=balanced(right_of_five, labels[known]),
        wrong_without_warning=interval(wrong & answered),
        answered=interval(answered),
        wrong_of_answered=mean_of(wrong[answered]),
        probability_of_wrong=mean_of(sure[wrong]),
        probability_of_right=mean_of(sure[~wrong]),
    )
    return dict(
        row=row,
        source=cells.source,
        digest=sha256_arrays(np.array(cells.names), list(cells.images), labels),
        n=len(cells),
        classes=dict(Counter(CLASSES[label] for label in labels)),
        confusion=dict(eight=confusion(labels, answers), five=confusion(labels[known], of_five)),
        confusion_without_warning=confusion(labels[answered], answers[answered]),
    )


def main(
    model: str = 'auto', side: int = 220, home: int = 0, seed: int = 0, device: str = 'auto', threads: int = 2
):
    """Measure all four sets.

    `side`: pixels of the square about a BCCD cell; `home`: how many images of BloodMNIST's test split, drawn
    by `seed`, or 0 for all."""
    torch.set_num_threads(threads)
    bccd, cut = bccd_cells(side)
    sets = dict(
        jiangxi=load_expert('jiangxi'),
        cellavision=load_expert('cellavision'),
        bccd=bccd,
        home=load_cells('bloodmnist', 'test', 64, limit=home or None, seed=seed),
    )
    rows = {}
    for name, cells in sets.items():
        rows[name] = measure(cells, model, device)
        found = rows[name]['row']
        print(name, *(f'{k}: {list(v.values()) if v else None}' for k, v in found.items()), sep='\n  ')
    rows['bccd'] |= cut
    names = NETWORKS if model == 'auto' else (model,)
    write_json(
        dict(
            model=model,
            networks={n: sha256_file(checkpoint_folder(n) / 'model.safetensors') for n in names},
            recipe=dict(bccd_side=side, home_images=len(sets['home']), home_seed=seed, bootstrap_seed=0),
            sets=rows,
            versions=versions(),
        ),
        RESULTS / 'laboratories.json',
    )


if __name__ == '__main__':
    typer.run(main)
