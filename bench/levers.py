"""What helps a class to travel: normalisation, and an encoder that knows ImageNet; results/levers.json.

    python bench/lever_networks.py PTH      # the weights of ImageNet, once: see there
    python bench/levers.py                  # trains what is not there yet: about an hour on one core

Each arm of `ARMS` is trained `SEEDS` times on cells of BloodMNIST alone, and nothing is chosen on the
laboratories. A killed run goes on with the next network; what is trained, and the cells, are kept in --work.

Pictures go the user's way (`segment_images`), of 500 cells of BloodMNIST's test split and of the three
laboratories of laboratories.py. Every network is shown the squares that the bundled one is asked about: in
own colours, in BloodMNIST's (`mapped`), and `both`, log probabilities averaged. `forest`: both, with the
opinion by shape and texture, as `joined_chances` takes it in. A cell that is not found is wrong. Five classes
as in laboratories.py; balanced: the mean over classes of five cells or more. `ensemble`: the log
probabilities of an arm's seeds averaged; `ensemble_and_bundled`: theirs with the bundled networks'.
"""

from pathlib import Path

import numpy as np
import timm
import torch
import typer
from laboratories import FIVE, asked_row, bccd_fields
from lever_networks import (
    ARMS,
    BATCH,
    CHOOSING,
    SEEDS,
    SIDES,
    SQUARE,
    STEPS,
    TRIAL,
    chances,
    frames,
    kept,
    train_all,
)
from scipy import stats
from scipy.special import softmax
from tqdm import tqdm

from blood_unet.core import sha256_arrays, versions
from blood_unet.data import CLASSES, load_cells
from blood_unet.doubt import joined_chances, mean_opinion
from blood_unet.experts import load_expert
from blood_unet.files import write_json
from blood_unet.naming import cell_opinions
from blood_unet.predict import load_networks
from blood_unet.segment import segment_images

TOP = Path(__file__).parent
BASES = dict(unet='batch', lite='scratch')  # what an arm of a family is compared with
LABORATORIES = ('jiangxi', 'cellavision', 'bccd')
SETS = ('home', *LABORATORIES)
WAYS = ('own', 'mapped', 'both', 'forest')
PLATELET = CLASSES.index('platelet')


def gather() -> dict:
    """The cells of all sets as the command finds them, kept as arrays by set.

    `labels` (n,), `found` (n,), `squares` (n, 2, 64, 64, 3) in own and in BloodMNIST's colours, `opinions`
    (n, 4, 8) of bundled network and forest in both, `foreign` (n,). Home: 500 of the test split."""
    networks, out = load_networks('auto'), {}
    home = load_cells('bloodmnist', 'test', SQUARE, limit=500, seed=0)
    sets = dict(home=(home, None), jiangxi=(load_expert('jiangxi'), None))
    sets |= dict(cellavision=(load_expert('cellavision'), None), bccd=bccd_fields())
    for name, (cells, boxes) in sets.items():
        n = len(cells.images)
        got = dict(labels=np.asarray(cells.labels), found=np.zeros(n, bool), foreign=np.zeros(n))
        got['squares'], got['opinions'] = np.zeros((n, 2, SQUARE, SQUARE, 3), np.uint8), np.zeros((n, 4, 8))
        for i, image in enumerate(tqdm(cells.images, desc=name, mininterval=10)):
            seen = segment_images([image], networks)
            row = asked_row(seen.table, None if boxes is None else boxes[i])
            one = None if row is None else seen.pictures[0].cells[int(row.cell) - 1]
            if one is None or not len(one.chances):
                continue
            k, said = len(one.chances), cell_opinions(one, seen.pictures[0])
            got['found'][i], got['foreign'][i] = True, row.foreign if k > 1 else 0
            got['squares'][i] = one.squares[[0, k - 1]]
            got['opinions'][i] = said[[0, k - 1, k, 2 * k - 1]]
        out |= {f'{name}_{key}': value for key, value in got.items()}
        out[f'{name}_digest'] = np.array(
            sha256_arrays(np.array(cells.names), list(cells.images), cells.labels)
        )
    return out


def opinions_of(net, side, cells, name) -> np.ndarray:
    "What a network says of both squares of the cells of a set (n, 2, 8); platelets as in `cell_opinions`."
    both = cells[f'{name}_squares']
    own = chances(net, both[:, 0], side)
    same = (both[:, 0] == both[:, 1]).all()
    said = np.stack([own, own if same else chances(net, both[:, 1], side)], 1)
    said[..., PLATELET] *= cells[f'{name}_opinions'][:, :1, PLATELET] > 0
    return said / said.sum(-1, keepdims=True)


def answers(said, cells, name, way) -> np.ndarray:
    "Chances (n, 8) of a set in one of `WAYS`, from a network's opinions (n, 2, 8)."
    if way in ('own', 'mapped'):
        return said[:, ('own', 'mapped').index(way)]
    if way == 'both':
        return np.array([mean_opinion(one) for one in said])
    four = np.concatenate([said, cells[f'{name}_opinions'][:, 2:]], 1)
    told = zip(four, cells[f'{name}_foreign'], cells[f'{name}_found'])
    none = np.zeros(len(CLASSES))
    return np.array([joined_chances(one, far) if found else none for one, far, found in told])


def right(given, cells, name) -> dict:
    "Shares of right answers: `five`, `eight`, and the mean over classes of 5 cells or more of each."
    labels, found = cells[f'{name}_labels'], cells[f'{name}_found']
    known = np.isin(labels, FIVE)
    five = found & (np.array(FIVE)[given[:, FIVE].argmax(1)] == labels)
    hits = dict(five=(five[known], labels[known]), eight=(found & (given.argmax(1) == labels), labels))
    out = {}
    for key, (hit, truth) in hits.items():
        kinds = [kind for kind in np.unique(truth) if (truth == kind).sum() >= 5]
        balanced = np.mean([hit[truth == kind].mean() for kind in kinds])
        out |= {key: float(hit.mean()), f'{key}_balanced': float(balanced)}
    return out


def scores(said, cells) -> dict:
    "`{set: {way: {measure: share}}}` of opinions by set, and `elsewhere`, the mean over the laboratories."
    rows = {n: {w: right(answers(said[n], cells, n, w), cells, n) for w in WAYS} for n in SETS}
    means = {
        way: {
            key: float(np.mean([rows[name][way][key] for name in LABORATORIES])) for key in rows['home'][way]
        }
        for way in WAYS
    }
    return rows | dict(elsewhere=means)


def over_seeds(values) -> dict:
    "Mean of the numbers of seeds, with the 95 % interval of Student's t."
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    numbers = dict(mean=mean, low=mean - half, high=mean + half)
    return {k: round(float(v), 4) for k, v in numbers.items()} | dict(
        n=len(values), values=values.round(4).tolist()
    )


def table(runs, base) -> dict:
    "`over_seeds` of the `scores` of an arm's seeds, and of their differences to the arm it is compared with."
    out = {}
    for name in (*SETS, 'elsewhere'):
        for way in WAYS:
            for key in runs[0][name][way]:
                here, there = ([run[name][way][key] for run in many] for many in (runs, base))
                row = dict(value=over_seeds(here), difference=over_seeds(np.subtract(here, there)))
                out.setdefault(name, {}).setdefault(way, {})[key] = row
    return out


def mean_log(*opinions) -> dict:
    "Opinions (n, 2, 8) by set of several networks, their log probabilities averaged."
    return {n: softmax(np.mean([np.log(one[n] + 1e-3) for one in opinions], 0), axis=-1) for n in SETS}


def arm_row(name, said, base, bundled, cells) -> dict:
    "What is known of an arm from the opinions of its seeds, and of those of the arm it is compared with."
    runs, others = ([scores(one, cells) for one in many] for many in (said, base))
    joint = mean_log(*said)
    return dict(
        ARMS[name]._asdict(),
        compared_with=BASES[ARMS[name].family],
        sets=table(runs, others),
        ensemble=scores(joint, cells),
        ensemble_and_bundled=scores(mean_log(joint, bundled), cells),
    )


def about(cells, name) -> dict:
    "How many cells a set has, and of which pictures."
    labels, found = cells[f'{name}_labels'], cells[f'{name}_found']
    known = int(np.isin(labels, FIVE).sum())
    return dict(n=len(labels), five=known, not_found=int((~found).sum()), digest=str(cells[f'{name}_digest']))


def main(
    work: Path = TOP.parent / 'data' / 'levers', threads: int = 1, seeds: int = SEEDS, length: float = 1.0
):
    """Train what is missing, ask all networks, and write results/levers.json.

    `length`: of the training, a share of `STEPS`; with .25 a quarter of an hour."""
    torch.set_num_threads(threads)
    cells, data = kept(work / 'cells.npz', gather), kept(work / 'frames.npz', frames)
    steps = {family: round(length * n) for family, n in STEPS.items()}
    going = train_all(data, work, seeds, steps)
    tried, said, validation = next(going), {name: [] for name in ARMS}, {name: [] for name in ARMS}
    for name, _, net, accuracy in going:
        side = SIDES[ARMS[name].family]
        said[name].append({n: opinions_of(net, side, cells, n) for n in SETS})
        validation[name].append(accuracy)
    trial = dict(seed=CHOOSING, steps=TRIAL, validation=tried)
    bundled = {n: cells[f'{n}_opinions'][:, :2] for n in SETS}
    arms = {k: arm_row(k, v, said[BASES[ARMS[k].family]], bundled, cells) for k, v in said.items()}
    found = dict(
        recipe=dict(seeds=seeds, batch=BATCH, steps=steps, sides=SIDES, trial=trial),
        sets={name: about(cells, name) for name in SETS},
        bundled=scores(bundled, cells),
        arms={k: row | dict(validation=over_seeds(validation[k])) for k, row in arms.items()},
        versions=versions() | dict(timm=timm.__version__),
    )
    write_json(found, TOP / 'results' / 'levers.json')


if __name__ == '__main__':
    typer.run(main)
