"""What speaks against a class, and how often one that is called certain is wrong: bench/results/doubt.json.

    python bench/doubt.py looks     # how BloodMNIST's training cells look: weights/looks-bloodmnist.json
    python bench/doubt.py cells     # what `blood-unet segment` says of the pictures of every set
    python bench/doubt.py           # the measurements, from what was said

Sets: BloodMNIST's whole pictures (bloodmnist_frames_jpeg.zip, by split) and its own 64 px squares; whole
pictures of Jiangxi, CellaVision and BCCD; squares of 64 px cut out of the first two, as one would make them
to be like BloodMNIST's; and the 40 `native` pictures, untouched and spoilt in five strengths. Each picture is
answered by itself; asked for is the cell next to its middle, or the one in the expert's box. What is said is
kept in data/travel, which git ignores, with a digest of the weights and of the code that said it: what others
said is asked again.
"""

import functools
import hashlib
import io
import itertools
import json
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import typer
from laboratories import asked_row, bccd_fields, doubted
from PIL import Image
from scipy import ndimage as ndi
from scipy.stats import binomtest
from tqdm import tqdm

import blood_unet
from blood_unet import doubt
from blood_unet.cells import find_cells
from blood_unet.core import DataError, sha256_arrays, sha256_file, versions
from blood_unet.data import CLASSES, find_data, load_cells
from blood_unet.experts import load_expert
from blood_unet.files import atomic_path, write_json
from blood_unet.images import read_image, resize
from blood_unet.naming import (
    REFUSED,
    cell_opinions,
    cell_quality,
    cell_words,
    judged_together,
    picture_foreignness,
    picture_words,
)
from blood_unet.predict import load_networks
from blood_unet.quality import LIMITS, TOGETHER, Quality, foreign_together, home_of, look
from blood_unet.segment import segment_images
from blood_unet.smear import CANONICAL, locate

RESULT = Path(__file__).parent / 'results' / 'doubt.json'
KEPT = Path(__file__).parent.parent / 'data' / 'travel' / 'doubt'
LOOKS_FILE = Path(blood_unet.__file__).parent / 'weights' / 'looks-bloodmnist.json'
INSIDE = dict(picture=0.95, square=0.99)  # share of BloodMNIST's training cells within the edge of their home
FIVE = [CLASSES.index(name) for name in ('neutrophil', 'eosinophil', 'basophil', 'lymphocyte', 'monocyte')]
NATIVE = dict(BA=0, EO=1, ERB=2, MMY=3, MY=3, PMY=3, IG=3, LY=4, MO=5, BNE=6, SNE=6, NEUTROPHIL=6, PLATELET=7)
LABORATORIES = ('jiangxi', 'cellavision', 'bccd')
WEIGHTS = ((1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 2, 2), (0, 1, 2, 2), (0, 1, 0, 1))  # of four opinions
BARS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ASKED = 'smear ruler masks preprocessing morphology quality doubt cells naming predict'.split()  # modules
STRENGTHS = {
    'blurred': (0.5, 1, 1.5, 2, 3),  # sigma in px of the square of 64 px
    'over-exposed': (1.05, 1.15, 1.3, 1.5, 1.8),  # times the colours
    'paler': (0.9, 0.75, 0.6, 0.5, 0.4),  # times the optical densities
    'cut by the border': (0.1, 0.2, 0.3, 0.4, 0.5),  # of the cell's width outside
    'negative': (1,),
    'channels swapped': (1,),
}


def spoilt(image, name, strength, located):
    "A picture spoilt; `located`: what was found in it before"
    if name == 'blurred':
        sigma = strength * CANONICAL / located.ruler.um_per_pixel
        return np.rint(ndi.gaussian_filter(image.astype(float), (sigma, sigma, 0))).astype(np.uint8)
    if name == 'over-exposed':
        return np.rint((image * float(strength)).clip(0, 255)).astype(np.uint8)
    if name == 'paler':
        slide = located.chart.background + 1
        return np.rint((slide * ((image + 1.0) / slide) ** strength - 1).clip(0, 255)).astype(np.uint8)
    if name == 'cut by the border':
        _, left, _, right = central(image, located).box
        return image[:, round(left + strength * (right - left)) :]
    return 255 - image if name == 'negative' else image[..., ::-1].copy()


def central(image, located):
    "The white cell next to the middle of a picture, else the platelet; None where there is neither"
    middle = np.array(image.shape[:2]) / 2
    cells = located.white or [c for c in located.cells if c.kind == 'platelet']
    return min(cells, key=lambda c: np.hypot(*(c.centre - middle)), default=None)


def frames(split, n):
    "Whole pictures of BloodMNIST, and their classes"
    with zipfile.ZipFile(find_data('bloodmnist_frames_jpeg.zip')) as z:
        names = sorted(x for x in z.namelist() if x.endswith('.jpg') and f'{split}/' in x)
        names = sorted(np.random.default_rng(0).choice(names, n, replace=False))
        images = [np.array(Image.open(io.BytesIO(z.read(name))).convert('RGB')) for name in names]
    return images, [int(name.rsplit('_', 1)[1][:-4]) for name in names], None


def squares(split, n=None):
    "Squares of BloodMNIST, and their classes"
    cells = load_cells('bloodmnist', split, 64, limit=n)
    return list(cells.images), cells.labels.tolist(), None


def expert(name, side=None):
    "Pictures of an expert set, and their classes; `side`: their middle three quarters, at so many px"
    cells = load_expert(name)
    labels = [CLASSES.index(cells.classes[label]) for label in cells.labels]
    return [image if side is None else square(image, side) for image in cells.images], labels, None


def square(image, side):
    "The middle three quarters of a picture, at so many px a side"
    edge = round(0.75 * min(image.shape[:2]))
    top, left = ((length - edge) // 2 for length in image.shape[:2])
    return resize(image[top : top + edge, left : left + edge], (side, side))


def bccd():
    "Fields of BCCD with one white cell, its class and its box"
    cells, boxes = bccd_fields()
    return cells.images, cells.labels.tolist(), boxes


@functools.cache
def native_located():
    "Name, picture, class and what is found of the `native` pictures; the class by the name"
    paths = sorted(find_data('native').glob('*.jpg'))
    images = [(path.name, read_image(path)) for path in paths]
    return [(name, image, NATIVE[name.split('_')[0]], locate(image)) for name, image in images]


def native(name=None, strength=None):
    "The `native` pictures and their classes, spoilt or not"
    found = [
        (image if name is None else spoilt(image, name, strength, where), label)
        for _, image, label, where in native_located()
    ]
    return [image for image, _ in found], [label for _, label in found], None


def sets() -> dict:
    "What gives the pictures of each set: images, labels, boxes or None"
    found = {
        'squares-val': lambda: squares('val'),
        'squares-test': lambda: squares('test', 1000),
        'frames-val': lambda: frames('val', 300),
        'frames-test': lambda: frames('test', 300),
        'jiangxi': lambda: expert('jiangxi'),
        'cellavision': lambda: expert('cellavision'),
        'bccd': bccd,
        'jiangxi, 64 px': lambda: expert('jiangxi', 64),
        'cellavision, 64 px': lambda: expert('cellavision', 64),
        'native': native,
    }
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            found[f'{name} {strength}'] = functools.partial(native, name, strength)
    return found


TRAINING = dict(picture=lambda: frames('train', 500), square=lambda: squares('train', 1000))


def said_of(picture, row) -> dict:
    "What is kept of the cell of a `Picture` that a row of the table tells of, ready for JSON"
    found = picture.cells[int(row.cell) - 1]
    kept = dict(named=row['class'], certain=bool(row.certain))
    if not len(found.chances):
        return kept
    before = sum(len(one.chances) > 0 for one in picture.cells[: int(row.cell)])
    quality = cell_quality(found, picture)._asdict()
    return kept | dict(
        single=picture.single,
        together=judged_together(picture),
        words=picture_words(picture) + cell_words(found),
        foreign=picture_foreignness(picture)[before - 1],
        quality={name: np.asarray(value).tolist() for name, value in quality.items()},
        opinions=cell_opinions(found, picture).tolist(),
    )


@functools.cache
def rules(looks: bool = True) -> str:
    "A digest of the weights and of the modules that answer; `looks`: with the file of looks, too"
    top = Path(blood_unet.__file__).parent
    weights = sorted(p for p in top.glob('weights/**/*') if p.is_file() and (looks or p != LOOKS_FILE))
    files = [top / f'{name}.py' for name in ASKED] + weights
    return hashlib.sha256(''.join(map(sha256_file, files)).encode()).hexdigest()


def keep(names_sets):
    "Keep what the command says of every set of which it is not kept yet"
    torch.set_num_threads(1)
    networks = load_networks('auto')
    KEPT.mkdir(parents=True, exist_ok=True)
    for name, pictures in names_sets.items():
        path = KEPT / f'{name}.json'
        if path.exists() and json.loads(path.read_text())['rules'] == rules():
            continue
        images, labels, boxes = pictures()
        rows = []
        for start in tqdm(range(0, len(images), 32), name, mininterval=10):
            told = segment_images(images[start : start + 32], networks)
            for i, picture in enumerate(told.pictures):
                box = None if boxes is None else boxes[start + i]
                row = asked_row(told.table[told.table.image == i], box)
                said = {} if row is None else said_of(picture, row)
                rows.append(dict(label=int(labels[start + i])) | said)
        data = sha256_arrays(images, np.array(labels))
        with atomic_path(path) as temporary:
            Path(temporary).write_text(json.dumps(dict(data=data, rules=rules(), rows=rows)))


def kept(name) -> list:
    "What was said of each picture of a set, with its `Quality`"
    found = json.loads((KEPT / f'{name}.json').read_text())
    if found['rules'] != rules():
        raise DataError(
            f'{name}.json of other rules or weights', 'what this version says', 'run `cells` again'
        )
    rows = found['rows']
    for row in rows:
        if 'quality' in row:
            row['quality'] = Quality(
                **{k: np.array(v) if isinstance(v, list) else v for k, v in row['quality'].items()}
            )
            row['opinions'] = np.array(row['opinions'])
    return rows


def training_looks(name) -> np.ndarray:
    "The `look` (n, 10) of the cell next to the middle of each of BloodMNIST's training pictures, once found"
    path = KEPT / f'{name}-looks-{rules(looks=False)[:12]}.npy'
    if not path.exists():
        networks, images = load_networks('auto'), TRAINING[name]()[0]
        found = []
        for start in tqdm(range(0, len(images), 32), name, mininterval=10):
            for picture in find_cells(images[start : start + 32], networks, 'cpu'):
                asked = [one for one in picture.cells if len(one.chances)]
                if picture.single != (name == 'square'):
                    continue  # seen otherwise
                found += [look(cell_quality(one, picture)) for one in asked[:1]]
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.save(file, np.array(found))
    return np.load(path)


def looks():
    "How BloodMNIST's training cells look, in whole pictures and in its squares: the bundled file"
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    homes = {}
    for name, inside in INSIDE.items():
        found = training_looks(name)
        home = home_of(found, inside)
        numbers = dict(mean=home.mean, covariance=home.covariance, edge=home.edge)
        homes[name] = {k: np.round(v, 6).tolist() for k, v in numbers.items()}
        homes[name] |= dict(inside=inside, cells=len(found))
    write_json(homes, LOOKS_FILE)


def row_of(answered, wrong, n) -> dict:
    "Counts and shares: risk is the share of wrong among the answered, with the upper end of its interval"
    high = binomtest(int(wrong), int(answered)).proportion_ci(method='wilson').high if answered else None
    risk = round(wrong / answered, 4) if answered else None
    counts = dict(n=int(n), answered=int(answered), wrong=int(wrong), coverage=round(answered / n, 4))
    return counts | dict(risk=risk, risk_high=None if high is None else round(float(high), 4))


def judged(rows) -> dict:
    "How many cells are called certain, and how many of these are wrong; what is not found is not answered"
    certain = [row for row in rows if row.get('certain')]
    return row_of(len(certain), sum(row['named'] != CLASSES[row['label']] for row in certain), len(rows))


def speaks_against(row) -> bool:
    "Does a word alone make the class uncertain?"
    return any(word.startswith((*doubt.ALONE, *REFUSED)) for word in row['words'])


def answered(row):
    "The class of which the rules are certain as they stand, None where they are of none"
    if 'opinions' not in row:
        return row['named'] if row.get('certain') else None
    network = len(row['opinions']) // 2
    how = row['opinions'], row['words'], row['foreign'], row['together'], network
    sure = doubt.certainty(*how)[0] and not any(word.startswith(REFUSED) for word in row['words'])
    return CLASSES[doubt.name_class(row['opinions'], row['foreign'], network)[0]] if sure else None


def with_settings(rows, weights=None, agreeing=None, **chances) -> dict:
    "`row_of` what the rules are certain of with other `CHANCE`, `AGREEING` and weights"
    own = doubt._weights
    with (
        patch.dict(doubt.CHANCE, chances),
        patch.dict(doubt.AGREEING, {} if agreeing is None else dict(foreign=agreeing)),
        patch.object(
            doubt, '_weights', lambda k: np.array(weights) if weights and k == len(weights) else own(k)
        ),
    ):
        said = [(answered(row), CLASSES[row['label']]) for row in rows]
    certain = [(named, label) for named, label in said if named is not None]
    return row_of(len(certain), sum(named != label for named, label in certain), len(rows))


def best(rows, most) -> tuple:
    "The settings of {settings: rows of sets} with most coverage, where every set's risk is up to `most`"
    fit = {
        key: sum(row['coverage'] for row in found)
        for key, found in rows.items()
        if all((row['risk'] or 0) <= most for row in found)
    }
    return max(fit, key=fit.get)


def in_foreign_stain(rows, weights, agreeing, chance) -> dict:
    "`with_settings` of a foreign stain"
    return with_settings(rows, weights, agreeing, foreign=chance)


def leave_one_out(said) -> dict:
    """Settings in a foreign stain chosen on two laboratories, and what they give on the third.

    They are chosen without BCCD's `DOUBTED` labels, and reported with them.
    """
    sound = ~doubted(bccd_fields()[0])
    undoubted = said | dict(bccd=[row for row, yes in zip(said['bccd'], sound) if yes])
    grid = list(itertools.product(WEIGHTS, (0.5, 0.75, 1.0), np.arange(0.3, 0.85, 0.05).round(2).tolist()))
    found, choosing = (
        {key: {name: in_foreign_stain(those[name], *key) for name in LABORATORIES} for key in grid}
        for those in (said, undoubted)
    )
    rows = {}
    for out in (*LABORATORIES, None):
        chosen = best({k: [r for name, r in v.items() if name != out] for k, v in choosing.items()}, 0.05)
        settings = dict(zip(('weights', 'agreeing', 'chance'), chosen))
        rows[out or 'chosen on all'] = settings | (found[chosen][out] if out else found[chosen])
    return rows


def limits(said) -> dict:
    "Quantiles of BloodMNIST's validation cells and of other laboratories: LIMITS are read from them"
    home = [
        row['quality'] for name in ('squares-val', 'frames-val') for row in said[name] if 'quality' in row
    ]
    rows = {}
    for name in LIMITS:
        usual = np.nanpercentile([getattr(q, name) for q in home], [0.25, 50, 99.75])
        others = {
            place: np.nanpercentile(
                [getattr(r['quality'], name) for r in said[place] if 'quality' in r], [1, 99]
            )
            for place in LABORATORIES
        }
        rows[name] = {k: v.round(3).tolist() for k, v in (dict(home=usual) | others).items()}
    return dict(n=len(home), quality=rows)


def seen(rows) -> dict:
    "How foreign the cells of a set look, their share beyond the edge, and the share with a word against them"
    far = [row['foreign'] for row in rows if 'foreign' in row]
    words = [speaks_against(row) for row in rows if 'words' in row]
    shares = dict(foreign=np.mean(np.array(far) > 1), words=np.mean(words))
    return {k: round(float(v), 4) for k, v in shares.items()} | dict(far=np.round(np.sort(far), 3).tolist())


def beyond_together(rows, n=1000, seed=0) -> float:
    "The share of drawn fives of a set's cells that lie beyond the edge, as if they were of one field"
    far = np.array([row['foreign'] for row in rows if 'foreign' in row])
    rng = np.random.default_rng(seed)
    drawn = [foreign_together(rng.choice(far, TOGETHER, replace=False)).min() > 1 for _ in range(n)]
    return float(np.mean(drawn))


def wrong_of_network(rows) -> float:
    "The share of cells that the network alone names wrongly, in their own colours"
    named = [row['opinions'][0].argmax() != row['label'] if 'opinions' in row else True for row in rows]
    return round(float(np.mean(named)), 4)


def measure():
    "Everything, from what was said"
    names = list(sets())
    homes = json.loads(LOOKS_FILE.read_text())
    said = {name: kept(name) for name in names}
    plain = [name for name in names if name.rsplit(' ', 1)[0] not in STRENGTHS]
    settings = [(a, b) for a in BARS for b in BARS if a <= b]
    found = dict(
        limits=limits(said),
        leave_one_out=leave_one_out(said),
        at_home={f'{a} {b}': with_settings(said['squares-val'], agreed=a, alone=b) for a, b in settings},
        fives={name: beyond_together(said[name]) for name in ('frames-test', 'cellavision')},
        homes={k: {what: v[what] for what in ('edge', 'inside', 'cells')} for k, v in homes.items()},
        rules=rules(),
        seen={name: seen(said[name]) for name in plain},
        sets={name: judged(said[name]) for name in plain},
        network={name: wrong_of_network(said[name]) for name in plain},
        spoilt={
            name: {str(strength): judged(said[f'{name} {strength}']) for strength in strengths}
            for name, strengths in STRENGTHS.items()
        },
    )
    data = {name: json.loads((KEPT / f'{name}.json').read_text())['data'] for name in names}
    write_json(found | dict(data=data, versions=versions()), RESULT)


def main(what: str = typer.Argument('measure')):
    dict(looks=looks, cells=lambda: keep(sets()), measure=measure)[what]()


if __name__ == '__main__':
    typer.run(main)
