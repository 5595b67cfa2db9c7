"""The second opinion by shape and texture: made, and measured on other laboratories; results/morphology.json.

    python bench/morphology.py

Trains the forest of `morphology.load_opinion` on cells of BloodMNIST's train split, measured on the masks of
the bundled network, as they are or with a copy of each in another stain, or in another scale and sharpness.
Writes blood_unet/weights/opinion-bloodmnist.safetensors. Settings are chosen by leaving one laboratory out:
for each of Jiangxi, CellaVision and BCCD by the other two: what is reported for it (`left_out`) comes from
those; the file (`bundled`) has what the three choose together. The home row is BloodMNIST's test split. No
network and no forest was trained on any of these pictures.

Report pictures go the user's way: `locate`, the cell in the middle (of BCCD: in the box), `canonical_cells`
with its own colours and with BloodMNIST's, `TestTimeAugmentation` of blood-unet-64, its masks, the
measurements. They are kept in data/travel; delete it after a change of what is measured. About half an hour.

Five classes: the most probable of neutrophil, eosinophil, basophil, lymphocyte and monocyte, on cells of
these. Together: means of log probabilities (floor `FLOOR`) of network and opinion in both colours.
"""

import hashlib
import inspect
import io
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from laboratories import FIVE
from PIL import Image
from scipy import ndimage as ndi
from sklearn.ensemble import ExtraTreesClassifier
from tqdm import tqdm

import blood_unet
from blood_unet.core import DataError, sha256_file, versions
from blood_unet.data import CLASSES, find_data, load_cells
from blood_unet.experts import load_expert
from blood_unet.files import atomic_path, write_json
from blood_unet.images import background_colour, read_image
from blood_unet.metrics import interval
from blood_unet.model import checkpoint_folder
from blood_unet.morphology import (
    MEASUREMENTS,
    NAMES,
    OPINION,
    load_opinion,
    opinion_of,
    relative_measurements,
)
from blood_unet.morphology import save_opinion
from blood_unet.predict import TestTimeAugmentation, load_networks, predict
from blood_unet.cells import cell_masks
from blood_unet.smear import canonical_cells, locate

TOP = Path(__file__).parent
KEPT = TOP.parent / 'data' / 'travel'
NETWORK = 'blood-unet-64'
FLOOR = 1e-3
LABORATORIES = ('jiangxi', 'cellavision', 'bccd')
SETS = ('home', *LABORATORIES)
COLOURS = ('own', 'mapped')
ASPECTS = {
    'shape': ('shape',),
    'texture': ('texture',),
    'shape and texture': ('shape', 'texture'),
    'with colour': ('shape', 'texture', 'colour'),
}
# half ranges of log scale and of log stain, largest blur in px
VARIATIONS = dict(stain=(0, 0.3, 0), sharpness=(0.1, 0, 0.7))
TRAINING = dict(own=('own',), stain=('own', 'stain'), sharpness=('own', 'sharpness'))
LEAVES = (3, 6, 12)  # cells at least, each counted once
COLOURED = tuple(
    'red_ratio green_ratio blue_ratio density_ratio red_share blue_share red_excess blue_excess'
    ' nucleus_hue_spread cytoplasm_hue_spread'.split()
)
COLUMNS = NAMES + COLOURED


# data


def kept(name, make) -> dict:
    "Arrays from data/travel, made where they are not there."
    path = KEPT / f'{name}.npz'
    if not path.exists():
        arrays = make()
        KEPT.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open('wb') as f:
            np.savez_compressed(f, **arrays)
    with np.load(path, allow_pickle=False) as f:
        return dict(f)


def asked(network, images) -> dict:
    "Canonical cells with their masks and class probabilities by a network."
    found = predict(network, images)
    maps = zip(images, found.nucleus_probability, found.cell_probability)
    nuclei, cells = zip(*(cell_masks(*one) for one in maps))
    return dict(
        images=images, nuclei=np.stack(nuclei), cells=np.stack(cells), network=found.class_probability
    )


def colours(image, nucleus, cell) -> list:
    """The `COLOURED` of a cell: stain of the cytoplasm beside the nucleus', NaN where there is no part.

    Ratios of the densities of red, green, blue and all; the shares of red and blue in the nucleus' density,
    and how much larger they are in the cytoplasm; how much red less blue varies in both.
    """
    around = cell & ~nucleus
    if min(nucleus.sum(), around.sum()) < 10:
        return [np.nan] * len(COLOURED)
    slide = background_colour(image.astype(np.float32)).reshape(-1)
    density = np.maximum(np.log(slide + 1) - np.log(image.astype(float) + 1), 0)
    dark, pale = (np.median(density[part], 0) + 1e-3 for part in (nucleus, around))
    own, other = dark / dark.sum(), pale / pale.sum()
    hue = (density[..., 0] - density[..., 2]) / dark.sum()
    ratios = [*(pale / dark), pale.sum() / dark.sum()]
    return ratios + [own[0], own[2], *(other - own)[[0, 2]], hue[nucleus].std(), hue[around].std()]


def measured(name, arrays) -> dict:
    "Arrays of `asked` with their `COLUMNS`, kept apart by the text of what takes them."

    def take():
        found = {}
        for kind in (key[: -len('images')] for key in arrays if key.endswith('images')):
            parts = [arrays[kind + part] for part in ('images', 'nuclei', 'cells')]
            coloured = np.array([colours(*one) for one in zip(*parts)])
            found[f'{kind}values'] = np.hstack([relative_measurements(*parts).to_numpy(), coloured])
        return found

    text = (Path(blood_unet.__file__).parent / 'morphology.py').read_text() + inspect.getsource(colours)
    rest = {k: v for k, v in arrays.items() if not k.endswith(('images', 'nuclei', 'cells'))}
    return rest | kept(f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}', take)


def varied(image, rng, scale, stain, blur):
    "A uint8 square (H, W, 3) in another scale, sharpness and strength of stain."
    factor, sigma = np.exp(rng.uniform(-scale, scale)), rng.uniform(0, blur)
    middle = (np.array(image.shape[:2]) - 1) / 2
    matrix, offset = np.diag([1 / factor, 1 / factor, 1]), [*(middle - middle / factor), 0]
    moved = ndi.affine_transform(image.astype(float), matrix, offset, order=1, mode='mirror')
    moved = ndi.gaussian_filter(moved, (sigma, sigma, 0))
    gain = np.exp(rng.uniform(-stain, stain) + rng.uniform(-stain / 2, stain / 2, 3))
    return np.rint(256 * ((moved + 1) / 256) ** gain - 1).clip(0, 255).astype(np.uint8)


def training_cells(limit: int, seed: int) -> dict:
    "Cells of the train split, own and by each of `VARIATIONS`, and their classes `y`."
    cells, network = load_cells('bloodmnist', 'train', 64, limit=limit, seed=seed), load_networks(NETWORK)[0]
    rng, rows = np.random.default_rng(seed), dict(y=cells.labels)
    for name, (scale, stain, blur) in (dict(own=(0, 0, 0)) | VARIATIONS).items():
        images = np.stack([varied(image, rng, scale, stain, blur) for image in cells.images])
        rows |= {f'{name}_{k}': v for k, v in asked(network, images).items()}
    return rows


def home_pictures(n: int, seed: int):
    "Whole source pictures of BloodMNIST's test split, with their class; n drawn by the seed."
    with zipfile.ZipFile(find_data('bloodmnist_frames_jpeg.zip')) as z:
        names = sorted(x for x in z.namelist() if x.endswith('.jpg') and 'test/' in x)
        for name in np.random.default_rng(seed).choice(names, n, replace=False):
            yield np.array(Image.open(io.BytesIO(z.read(name))).convert('RGB')), int(name[:-4].split('_')[-1])


def bccd_pictures():
    "Fields of BCCD with one box of a white cell and a class, and that box."
    boxes = pd.read_csv(find_data('bccd/boxes.csv')).query('kind == "WBC"')
    boxes = boxes.drop_duplicates('file', keep=False).sort_values('file')
    classes = pd.read_csv(find_data('bccd/labels.csv')).set_index('file')['class']
    for box in boxes[boxes.file.isin(classes.index)].itertuples():
        yield read_image(find_data(f'bccd/images/{box.file}')), CLASSES.index(classes[box.file]), box


def pictures(name, n, seed):
    "Pictures of a set with their class, and the box of the cell or None."
    if name == 'home':
        yield from ((*one, None) for one in home_pictures(n, seed))
    elif name == 'bccd':
        yield from bccd_pictures()
    else:
        cells = load_expert(name)
        for image, k in zip(cells.images, cells.labels):
            yield np.asarray(image), CLASSES.index(cells.classes[k]), None


def the_cell(image, box):
    "What `locate` finds, with the one cell that is asked about alone; None where it finds none."
    found = locate(image)
    if box is None:
        middle = np.array(image.shape[:2]) / 2
        cells = found.white or [c for c in found.cells if c.kind == 'platelet']
        cells = sorted(cells, key=lambda c: np.hypot(*(c.centre - middle)))
    else:
        inside = [(box.ymin, box.ymax), (box.xmin, box.xmax)]
        cells = [c for c in found.white if all(a <= x <= b for x, (a, b) in zip(c.centre, inside))]
    return found._replace(cells=[cells[0]._replace(kind='white cell')]) if cells else None


def report_cells(name, n, seed) -> dict:
    "`y`, `found`, and the found cells in both colours."
    labels, there, images = [], [], {colour: [] for colour in COLOURS}
    for image, label, box in tqdm(pictures(name, n, seed), desc=name):
        found = the_cell(image, box)
        labels.append(label)
        there.append(found is not None)
        for colour in COLOURS if found else ():
            images[colour].append(canonical_cells(image, found, colour == 'mapped').images[0])
    rows, network = (
        dict(y=np.array(labels), found=np.array(there)),
        TestTimeAugmentation(load_networks(NETWORK)[0]),
    )
    for colour in COLOURS:
        rows |= {f'{colour}_{k}': v for k, v in asked(network, np.stack(images[colour])).items()}
    return rows


# the forest


def fitted(train, columns, training, leaf, seed, trees):
    "An opinion by some of the `NAMES`, from arrays of `training_cells`."
    places = [COLUMNS.index(name) for name in columns]
    values = np.concatenate([train[f'{name}_values'] for name in TRAINING[training]])[:, places].astype(
        np.float32
    )
    usual = np.nanmedian(values, axis=0)
    least = leaf * len(TRAINING[training])
    forest = ExtraTreesClassifier(trees, min_samples_leaf=least, class_weight='balanced', random_state=seed)
    forest.fit(
        np.where(np.isnan(values), usual, values), np.concatenate([train['y']] * len(TRAINING[training]))
    )
    return forest, opinion_of(forest, columns, usual)


def columns_of(aspects) -> tuple:
    named = tuple(m.name for m in MEASUREMENTS if m.aspect in aspects)
    return named + (COLOURED if 'colour' in aspects else ())


def mean_log(chances):
    return np.mean([np.log(np.asarray(p) + FLOOR) for p in chances], axis=0)


def opinions(cells, opinion) -> list:
    "What an opinion says in both colours."
    tables = [pd.DataFrame(cells[f'{colour}_values'], columns=list(COLUMNS)) for colour in COLOURS]
    return [opinion.class_chances(table) for table in tables]


def right(cells, scores, classes: int):
    "Whether each cell is named right, of eight or of five classes; a cell that was not found is not."
    labels, found, chosen = cells['y'], cells['found'], FIVE if classes == 5 else range(8)
    answers = np.full(len(labels), -1)
    answers[found] = np.array(chosen)[scores[:, list(chosen)].argmax(1)]
    return (answers == labels)[np.isin(labels, chosen)]


def ways(cells, opinion) -> dict:
    "The scores (found, 8) of network, opinion and both, by name."
    network, second = [cells[f'{colour}_network'] for colour in COLOURS], opinions(cells, opinion)
    alone = {
        f'{who} {colour}': np.log(p + FLOOR)
        for who, both in (('network', network), ('opinion', second))
        for colour, p in zip(COLOURS, both)
    }
    return alone | dict(
        network=mean_log(network), opinion=mean_log(second), together=mean_log(network + second)
    )


def table_of(cells, opinion) -> dict:
    "Shares of cells named right, of eight and of five classes, by way; what the opinion adds to the network."
    scores, found = ways(cells, opinion), {}
    for way, these in scores.items():
        found[way] = {name: interval(right(cells, these, k)) for name, k in (('eight', 8), ('five', 5))}
    both = [right(cells, scores[way], 5).astype(float) for way in ('together', 'network')]
    return found | dict(added=interval(both[0] - both[1]))


def five(cells, opinion, way) -> float:
    return float(right(cells, ways(cells, opinion)[way], 5).mean())


# what is asked


def choose(sets, train, trees) -> tuple:
    "The settings with the best mean, together: of the two others for each laboratory, of all for the file."
    grid = {}
    for training, leaf in product(TRAINING, LEAVES):
        _, opinion = fitted(train, columns_of(ASPECTS['shape and texture']), training, leaf, 0, trees)
        grid[training, leaf] = {name: five(sets[name], opinion, 'together') for name in SETS}
        print(training, leaf, grid[training, leaf], flush=True)

    def best(names):
        return max(grid, key=lambda setting: np.mean([grid[setting][name] for name in names]))

    chosen = {name: best([other for other in LABORATORIES if other != name]) for name in LABORATORIES}
    rows = [dict(training=t, leaf=leaf, together=row) for (t, leaf), row in grid.items()]
    return chosen | dict(file=best(LABORATORIES)), rows


def ablation(sets, train, setting, trees, seeds) -> dict:
    "Five classes by aspects: the opinion in both colours, and together with the network; mean and spread."
    found = {}
    for name, aspects in ASPECTS.items():
        made = [fitted(train, columns_of(aspects), *setting, seed, trees)[1] for seed in range(seeds)]
        for way in ('opinion', 'together'):
            shares = {k: [five(cells, opinion, way) for opinion in made] for k, cells in sets.items()}
            found.setdefault(name, {})[way] = {
                k: dict(mean=round(float(np.mean(v)), 5), sd=round(float(np.std(v, ddof=1)), 5))
                for k, v in shares.items()
            }
        print(name, found[name], flush=True)
    return found


def larger(sets, train, setting, seed: int, trees: int = 600) -> dict:
    "Five classes by a forest too large for the file: what its size costs."
    opinion = fitted(train, columns_of(ASPECTS['shape and texture']), *setting, seed, trees)[1]
    shares = {way: {k: five(c, opinion, way) for k, c in sets.items()} for way in ('opinion', 'together')}
    return dict(trees=trees, nodes=len(opinion.feature)) | shares


def importance(sets, opinion, seed: int = 0, rounds: int = 10) -> dict:
    "How much less is named right of five classes where the rows of a group of measurements are permuted."
    groups, rng = {}, np.random.default_rng(seed)
    for m in MEASUREMENTS:
        if m.name in opinion.names:
            groups.setdefault(f'{m.aspect} of {m.part}', []).append(COLUMNS.index(m.name))
    found = {}
    for group, (name, cells) in product(groups, sets.items()):
        lost = []
        for _ in range(rounds):
            order, changed = rng.permutation(int(cells['found'].sum())), dict(cells)
            for colour in COLOURS:
                values = cells[f'{colour}_values'].copy()
                values[:, groups[group]] = values[order][:, groups[group]]
                changed[f'{colour}_values'] = values
            lost.append(five(cells, opinion, 'opinion') - five(changed, opinion, 'opinion'))
        found.setdefault(group, {})[name] = round(float(np.mean(lost)), 5)
    return found


def main(
    limit: int = 3000, home: int = 400, trees: int = 180, seeds: int = 5, seed: int = 0, threads: int = 1
):
    """Make the file and measure it.

    `limit`: cells of the train split; `home`: pictures of the test split; `trees`; `seeds` of the ablation.
    """
    if find_data('bloodmnist_frames_jpeg.zip') is None or find_data('bccd/boxes.csv') is None:
        got, remedy = 'a data folder without them', 'set BLOOD_UNET_DATA to the folder that holds them'
        raise DataError(got, 'bloodmnist_frames_jpeg.zip and bccd', remedy)
    torch.set_num_threads(threads)
    name = f'train-{limit}-{seed}'
    train = measured(name, kept(name, lambda: training_cells(limit, seed)))
    sets = {}
    for name in SETS:
        place = f'home-{home}-{seed}' if name == 'home' else name
        sets[name] = measured(place, kept(place, lambda: report_cells(name, home, seed)))
    chosen, grid = choose(sets, train, trees)
    columns = columns_of(ASPECTS['shape and texture'])
    path = Path(blood_unet.__file__).parent / 'weights' / OPINION
    forest, opinion = fitted(train, columns, *chosen['file'], seed, trees)
    save_opinion(opinion, path)
    by_two = {name: fitted(train, columns, *chosen[name], seed, trees)[1] for name in LABORATORIES}
    write_json(
        dict(
            recipe=dict(limit=limit, home=home, trees=trees, seed=seed, floor=FLOOR, variations=VARIATIONS),
            network=sha256_file(checkpoint_folder(NETWORK) / 'model.safetensors'),
            file=dict(bytes=path.stat().st_size, nodes=len(opinion.feature), sha256=sha256_file(path)),
            classes={name: np.bincount(cells['y'], minlength=8).tolist() for name, cells in sets.items()},
            found={name: interval(cells['found']) for name, cells in sets.items()},
            chosen={name: dict(training=t, leaf=leaf) for name, (t, leaf) in chosen.items()},
            grid=grid,
            left_out={name: table_of(sets[name], by_two[name]) for name in LABORATORIES},
            bundled={name: table_of(cells, load_opinion()) for name, cells in sets.items()},
            ablation=ablation(sets, train, chosen['file'], trees, seeds),
            importance=importance(sets, opinion),
            larger=larger(sets, train, chosen['file'], seed),
            quantised=quantised(sets['home'], forest, opinion),
            versions=versions(),
        ),
        TOP / 'results' / 'morphology.json',
    )


def quantised(cells, forest, opinion) -> float:
    "The largest difference of a chance from scikit-learn's."
    table = pd.DataFrame(cells['own_values'], columns=list(COLUMNS))[list(opinion.names)]
    values = table.to_numpy(np.float32)
    values = np.where(np.isnan(values), opinion.usual, values)
    return float(np.abs(forest.predict_proba(values) - opinion.class_chances(table)).max())


if __name__ == '__main__':
    typer.run(main)
