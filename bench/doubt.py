"""What speaks against a class, and how often one that is called certain is wrong: bench/results/doubt.json.

    python bench/doubt.py cells     # the cells of every set, through locate, canonical_cells and the network
    python bench/doubt.py           # the measurements, from those cells

Sets: whole pictures of Jiangxi, CellaVision, BCCD (one cell a field, named in labels.csv) and of BloodMNIST
(bloodmnist_frames_jpeg.zip, by split), its own 64 px squares, and the 40 `native` pictures spoilt in five
strengths. Squares are taken as they are. Cells are kept in data/travel, which git ignores.
"""

import functools
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image
from scipy import ndimage as ndi
from scipy.stats import binomtest

from blood_unet.cells import cell_masks
from blood_unet.core import versions
from blood_unet.data import CLASSES, find_data, load_cells
from blood_unet.doubt import (
    AGREE,
    ALONE,
    LIMITS,
    LOOKS,
    certainty,
    foreign_together,
    foreignness,
    look,
    mean_opinion,
    measure_quality,
    name_class,
    quality_words,
)
from blood_unet.experts import load_expert
from blood_unet.files import atomic_path, write_json
from blood_unet.images import read_image
from blood_unet.morphology import load_opinion, relative_measurements
from blood_unet.predict import TestTimeAugmentation, load_networks, predict
from blood_unet.smear import CANONICAL, HOME, SIDE, canonical_cells, colour_gain, locate

RESULT = Path(__file__).parent / 'results' / 'doubt.json'
KEPT = Path(__file__).parent.parent / 'data' / 'travel'
FIVE = [CLASSES.index(name) for name in ('neutrophil', 'eosinophil', 'basophil', 'lymphocyte', 'monocyte')]
NATIVE = dict(BA=0, EO=1, ERB=2, MMY=3, MY=3, PMY=3, IG=3, LY=4, MO=5, BNE=6, SNE=6, NEUTROPHIL=6, PLATELET=7)
LABORATORIES = ('jiangxi', 'cellavision', 'bccd')
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
    "Name, picture, class and place of whole pictures of BloodMNIST"
    with zipfile.ZipFile(find_data('bloodmnist_frames_jpeg.zip')) as z:
        names = sorted(x for x in z.namelist() if x.endswith('.jpg') and f'{split}/' in x)
        for name in sorted(np.random.default_rng(0).choice(names, n, replace=False)):
            image = np.array(Image.open(io.BytesIO(z.read(name))).convert('RGB'))
            yield name, image, int(name.rsplit('_', 1)[1][:-4]), None


def expert(name):
    "The same of an expert set"
    cells = load_expert(name)
    for i, (image, label) in enumerate(zip(cells.images, cells.labels)):
        yield f'{name} {i}', image, CLASSES.index(cells.classes[label]), None


def bccd():
    "The same of BCCD: fields with exactly one box of a white cell, and a class"
    boxes = pd.read_csv(find_data('bccd/boxes.csv')).query('kind == "WBC"')
    boxes = boxes.drop_duplicates('file', keep=False).set_index('file')
    named = pd.read_csv(find_data('bccd/labels.csv')).set_index('file')['class']
    for file in sorted(set(boxes.index) & set(named.index)):
        b = boxes.loc[file]
        place = b.ymin, b.ymax, b.xmin, b.xmax
        yield file, read_image(find_data('bccd') / 'images' / file), CLASSES.index(named[file]), place


def native():
    "The same of `native`, the class by the name"
    for path in sorted(find_data('native').glob('*.jpg')):
        yield path.name, read_image(path), NATIVE[path.name.split('_')[0]], None


@functools.cache
def native_located():
    return [(*one, locate(one[1])) for one in native()]


def native_spoilt(name, strength):
    for file, image, label, _, located in native_located():
        yield file, spoilt(image, name, strength, located), label, None


def cell_of(image, place) -> dict:
    "The square of a picture's cell, own-coloured and mapped, and what was found about it; `place`: its box"
    located = locate(image)
    one = central(image, located)
    if place is not None:
        top, bottom, left, right = place
        inside = [c for c in located.white if top <= c.centre[0] <= bottom and left <= c.centre[1] <= right]
        one = inside[0] if inside else None
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    if one is None:
        nothing = dict(found=False, own=blank, mapped=blank, slide=np.full(3, np.nan))
        return nothing | dict(cut=False, touching=False, guessed=False)
    alone = located._replace(cells=[one._replace(kind='white cell')])
    own, mapped = (canonical_cells(image, alone, colour).images[0] for colour in (False, True))
    state = dict(cut=one.cut, touching=one.touching, guessed=located.ruler.found == 'nuclei')
    return dict(found=True, own=own, mapped=mapped, slide=one.background) | state


def square_of(image, colour=True) -> dict:
    "The same of a small picture, which is taken as it is; its colours are mapped by what is found in it"
    chart, mapped = locate(image).chart if colour else None, image
    if chart is not None and chart.background is not None:
        density = np.log(chart.background + 1) - np.log(image.astype(float) + 1)
        home = (HOME.background + 1) * np.exp(-colour_gain(chart) * density) - 1
        mapped = np.rint(home.clip(0, 255)).astype(np.uint8)
    state = dict(found=True, cut=False, touching=False, guessed=False)
    return dict(own=image, mapped=mapped, slide=np.full(3, np.nan)) | state


def with_network(rows, network, ways=('own', 'mapped')) -> dict:
    "Arrays of cells, with what the network says of both squares: chances and masks"
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for way in ways:
        said = predict(network, arrays[way], device='cpu')
        pairs = zip(arrays[way], said.nucleus_probability, said.cell_probability)
        masks = [cell_masks(*one) for one in pairs]
        arrays[f'{way}_nucleus'], arrays[f'{way}_cell'] = (np.stack(m) for m in zip(*masks))
        arrays[f'{way}_network'] = said.class_probability
    return arrays


def squares(split, n):
    cells = load_cells('bloodmnist', split, 64, limit=n)
    mapped = split != 'train'  # of the others only the masks in their own colours are needed
    return [(f'{split} {i}', *one, mapped) for i, one in enumerate(zip(cells.images, cells.labels))]


def sets() -> dict:
    "What gives the pictures of each set"
    found = {
        'squares-test': lambda: squares('test', 400),
        'jiangxi': lambda: expert('jiangxi'),
        'cellavision': lambda: expert('cellavision'),
        'bccd': bccd,
        'native': native,
    }
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            found[f'{name} {strength}'] = lambda name=name, s=strength: native_spoilt(name, s)
    found |= {'squares-val': lambda: squares('val', 250), 'squares-train': lambda: squares('train', 1000)}
    found |= {f'frames-{split}': lambda split=split, n=n: frames(split, n) for split, n in FRAMES.items()}
    return found


FRAMES = dict(test=200, train=150)


def make_cells():
    "Keep the cells of every set that is not kept yet"
    torch.set_num_threads(1)
    plain = load_networks('blood-unet-64')[0]
    KEPT.mkdir(parents=True, exist_ok=True)
    for name, pictures in sets().items():
        path = KEPT / f'{name}.npz'
        if not path.exists():
            rows = []
            for file, image, label, place in pictures():
                row = square_of(image, place) if isinstance(place, bool) else cell_of(image, place)
                rows.append(row | dict(name=file, label=label))
            if name.endswith('train'):  # the limits need masks and no class: without mirror images
                arrays = with_network(rows, plain, ['own'])
            else:
                arrays = with_network(rows, TestTimeAugmentation(plain))
            with atomic_path(path) as temporary, open(temporary, 'wb') as file:
                np.savez(file, **arrays)
        print(name, flush=True)


def kept(name) -> dict:
    "The kept cells of a set that were found, with qualities, words, how foreign each is alone, and opinions"
    with np.load(KEPT / f'{name}.npz') as arrays:
        cells = {key: arrays[key][arrays['found']] for key in arrays.files}
        cells['n'] = len(arrays['found'])
    looks = zip(cells['own'], cells['own_nucleus'], cells['own_cell'], cells['slide'])
    cells['quality'] = [measure_quality(*one, None if np.isnan(s).any() else s) for *one, s in looks]
    states = zip(cells['cut'], cells['touching'], cells['guessed'])
    cells['words'] = [
        quality_words(q) + [word for word, yes in zip(AGREE, state) if yes]
        for q, state in zip(cells['quality'], states)
    ]
    cells['alone'] = np.array([foreignness(q)[0] for q in cells['quality']])
    if 'mapped_network' in cells:
        forest = load_opinion()
        beside = [
            forest.class_chances(
                relative_measurements(cells[way], cells[f'{way}_nucleus'], cells[f'{way}_cell'])
            )
            for way in ('own', 'mapped')
        ]
        cells['opinions'] = np.stack([cells['own_network'], cells['mapped_network'], *beside], 1)
    return cells


def row_of(answered, wrong, n) -> dict:
    "Counts and shares: risk is the share of wrong among the answered, with the upper end of its interval"
    high = binomtest(int(wrong), int(answered)).proportion_ci(method='wilson').high if answered else None
    risk = round(wrong / answered, 4) if answered else None
    counts = dict(n=int(n), answered=int(answered), wrong=int(wrong), coverage=round(answered / n, 4))
    return counts | dict(risk=risk, risk_high=None if high is None else round(float(high), 4))


def judged(cells, together, among=None) -> dict:
    "How many cells are called certain, and how many of these are wrong; `among`: classes that count"
    far, rests_on = cells['alone'], 1
    if together:
        far, rests_on = foreign_together(far), len(far)
    counted = np.isin(cells['label'], range(len(CLASSES)) if among is None else among)
    missed = cells['n'] - len(counted)
    given = zip(cells['opinions'], cells['words'], far, cells['label'])
    verdicts = [
        (certainty(opinions, words, f, rests_on)[0], name_class(opinions, f)[0] != label)
        for opinions, words, f, label in given
    ]
    certain, wrong = np.array(verdicts).T & counted
    return row_of(certain.sum(), (certain & wrong).sum(), counted.sum() + missed)


def in_foreign_stain(cells, weights, agreeing, chance) -> dict:
    "What `certainty` would answer of cells of the five classes in a foreign stain, with other settings"
    opinions = cells['opinions']
    mean = np.array([mean_opinion(one, weights) for one in opinions])
    named = mean.argmax(1)
    same = (opinions.argmax(2) == named[:, None]).mean(1)
    alone = np.array([any(w.startswith(ALONE) for w in words) for words in cells['words']])
    counted = np.isin(cells['label'], FIVE)
    certain = (same >= agreeing) & (mean.max(1) >= chance) & np.isin(named, FIVE) & ~alone & counted
    wrong = certain & (named != cells['label'])
    return row_of(certain.sum(), wrong.sum(), counted.sum() + cells['n'] - len(counted))


def at_home(cells, agreed, alone) -> dict:
    "What it would answer of cells of BloodMNIST, many together"
    network = np.array([mean_opinion(one[:2]) for one in cells['opinions']])
    named = network.argmax(1)
    same = (cells['opinions'][:, 2:].argmax(2) == named[:, None]).any(1)
    certain = network.max(1) >= np.where(same, agreed, alone)
    return row_of(certain.sum(), (certain & (named != cells['label'])).sum(), cells['n'])


def best(rows, most) -> tuple:
    "The settings of {settings: rows of sets} with most coverage, where every set's risk is up to `most`"
    fit = {
        key: sum(row['coverage'] for row in found)
        for key, found in rows.items()
        if all((row['risk'] or 0) <= most for row in found)
    }
    return max(fit, key=fit.get)


WEIGHTS = ((1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 2, 2), (0, 1, 2, 2), (0, 1, 0, 1))


def leave_one_out(sets) -> dict:
    "Settings in a foreign stain chosen on two laboratories, and what they give on the third"
    grid = list(itertools.product(WEIGHTS, (0.5, 0.75, 1.0), np.arange(0.3, 0.85, 0.05).round(2).tolist()))
    found = {key: {name: in_foreign_stain(sets[name], *key) for name in LABORATORIES} for key in grid}
    rows = {}
    for out in (*LABORATORIES, None):
        chosen = best({k: [r for name, r in v.items() if name != out] for k, v in found.items()}, 0.05)
        settings = dict(zip(('weights', 'agreeing', 'chance'), chosen))
        rows[out or 'chosen on all'] = settings | (found[chosen][out] if out else found[chosen])
    return rows


def limits(sets) -> dict:
    "Quantiles of BloodMNIST's training cells and of other laboratories: LIMITS and LOOKS are read from them"
    train = [q for name in ('squares-train', 'frames-train') for q in sets[name]['quality']]
    rows = {}
    for name in LIMITS:
        home = np.nanpercentile([getattr(q, name) for q in train], [0.25, 50, 99.75])
        others = {
            place: np.nanpercentile([getattr(q, name) for q in sets[place]['quality']], [1, 99])
            .round(3)
            .tolist()
            for place in LABORATORIES
        }
        rows[name] = dict(home=home.round(3).tolist()) | others
    looks = np.nanpercentile([look(q) for q in train], [0.25, 50, 99.75], axis=0).T.round(3)
    return dict(n=len(train), quality=rows, looks=dict(zip([one[0] for one in LOOKS], looks.tolist())))


def flags(cells) -> dict:
    "Shares of cells with a word, and beyond BloodMNIST's edge, alone and together"
    said = [sum(word.startswith(ALONE) for word in words) > 0 for words in cells['words']]
    far = foreign_together(cells['alone'])
    shares = dict(words=np.mean(said), foreign=np.mean(cells['alone'] > 1), together=np.mean(far > 1))
    return {name: round(float(share), 4) for name, share in shares.items()}


def wrong_of_network(cells) -> float:
    "The share of cells that the network alone names wrongly, of squares in their own colours"
    return round(float((cells['own_network'].argmax(1) != cells['label']).mean()), 4)


def measure():
    "Everything, from the kept cells"
    sets = {name: kept(name) for name in (*HOMES, *LABORATORIES, 'native')}
    tried = {f'{a} {b}': at_home(sets['squares-val'], a, b) for a in BARS for b in BARS if a <= b}
    found = dict(limits=limits(sets), leave_one_out=leave_one_out(sets), at_home=tried)
    found['flags'] = {name: flags(sets[name]) for name in sets}
    for name in (*HOMES[1:3], *LABORATORIES, 'native'):
        among = FIVE if name in LABORATORIES else None
        ways = {way: judged(sets[name], way == 'together', among) for way in ('alone', 'together')}
        found.setdefault('sets', {})[name] = ways
    found['network'] = {name: wrong_of_network(sets[name]) for name in (*HOMES[1:3], *LABORATORIES)}
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            cells = kept(f'{name} {strength}')
            ways = {way: judged(cells, way == 'together') for way in ('alone', 'together')}
            found.setdefault('spoilt', {}).setdefault(name, {})[str(strength)] = ways
    write_json(found | dict(versions=versions()), RESULT)


HOMES = ('squares-val', 'squares-test', 'frames-test', 'squares-train', 'frames-train')
BARS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main(what: str = 'measure'):
    dict(cells=make_cells, measure=measure)[what]()


if __name__ == '__main__':
    typer.run(main)
