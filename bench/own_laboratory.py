"""What a laboratory's own cells are worth: its classes after `blood-unet adapt`, with labels and without.

    python bench/own_laboratory.py        # writes results/own_laboratory.json

The sets of bench/laboratories.py. Without labels all white cells of all pictures teach, and the ones that are
asked for are reported. With labels, up to `k` of a class and at most half of it are drawn, 20 times, and the
cells that were not drawn are reported. Five classes and eight as in bench/laboratories.py; balanced: over the
classes of which five cells or more are reported. A cell that is not found is wrong.

The settings (how strongly the answers are held back, what the chances before count, the chance that a
certain class needs) are chosen by leaving one laboratory out: the best on two is reported on the third, and
beside it what is shipped, which is one of them. The kinds of evidence were chosen while looking at all three.
BCCD is told once more without the cells of `laboratories.DOUBTED`, neither taught nor asked for.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
import typer
from laboratories import FIVE, RESULTS, bccd_fields, doubted
from tqdm.auto import tqdm

from blood_unet import laboratory, naming
from blood_unet.cells import find_cells
from blood_unet.core import sha256_file, versions
from blood_unet.data import CLASSES
from blood_unet.differential import count_confusion, differential, elsewhere
from blood_unet.experts import load_expert
from blood_unet.files import write_json
from blood_unet.laboratory import Evidence, left_out_names, cell_evidence, learn_laboratory
from blood_unet.metrics import interval
from blood_unet.model import checkpoint_folder
from blood_unet.naming import Adapted, adapted_doubt, cell_opinions, cell_words, picture_foreignness
from blood_unet.predict import load_networks
from blood_unet.smear import SIDE

SETS = ('jiangxi', 'cellavision', 'bccd')
LABELS, DRAWS, RISK = (1, 2, 3, 5), 20, 0.05
GRID = dict(strength=(0.3, 1.0, 3.0), before=(0.1, 0.3, 1.0), chance=(0.8, 0.85, 0.9, 0.95))
SHIPPED = dict(strength=1.0, before=laboratory.BEFORE['taught'], chance=naming.TAUGHT['alone'])


class Laboratory(NamedTuple):
    """The cells of a set: `evidence` of all; `asked`: the position of each picture's (-1: not found), and its
    `truth`; `grounds`: for each cell what `adapted_doubt` is told beside the answer."""

    evidence: Evidence
    asked: np.ndarray
    truth: np.ndarray
    grounds: list


def middle_of(one) -> tuple:
    "The middle of a cell's box: across, down"
    top, left, bottom, right = one.box
    return (left + right) / 2, (top + bottom) / 2


def asked_cell(found, box):
    "The position among a picture's cells of the one that is asked for, -1 where it is not there"
    for i, one in enumerate(found):
        x, y = middle_of(one)
        if box is None or (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
            return i
    return -1


def gather(cells, boxes, networks, device) -> Laboratory:
    "All that is known of the cells of a set"
    parts, asked, grounds = [], [], []
    for i, image in enumerate(tqdm(cells.images, leave=False)):
        (picture,) = find_cells([image], networks, device)
        found = [one for one in picture.cells if len(one.chances)]
        at = asked_cell(found, None if boxes is None else boxes[i])
        asked.append(at if at < 0 else len(grounds) + at)
        about, together = naming.picture_words(picture), naming.judged_together(picture)
        for one, far in zip(found, picture_foreignness(picture)):
            said = cell_opinions(one, picture), about + cell_words(one), far, together, len(one.chances)
            grounds.append(said)
        if found:
            parts.append(cell_evidence([picture], networks, device))
    evidence = Evidence(*map(np.concatenate, zip(*parts)))
    return Laboratory(evidence, np.array(asked), cells.labels, grounds)


def drawn(lab, k, seed) -> np.ndarray:
    "Labels of up to `k` cells of each of the five classes, at most half of it; -1 elsewhere"
    rng, labels = np.random.default_rng(seed), np.full(len(lab.grounds), -1)
    for kind in FIVE:
        there = np.flatnonzero((lab.truth == kind) & (lab.asked >= 0))
        chosen = rng.permutation(there)[: min(k, len(there) // 2)]
        labels[lab.asked[chosen]] = kind
    return labels


def scores(lab, chances, taught=(), without=None) -> dict:
    "What is right of the cells that are asked for, but for those `without` (bool): shares."
    asked = [(at, kind) for at, kind in zip(lab.asked, lab.truth) if without is None or not without[at]]
    right, five, sure = np.zeros((3, len(asked)), bool)
    for i, (at, kind) in enumerate(asked):
        if at >= 0:
            one = chances[at]
            right[i], five[i] = one.argmax() == kind, FIVE[one[FIVE].argmax()] == kind
            sure[i] = not adapted_doubt(Adapted(one, taught), *lab.grounds[at])
    kinds = np.array([kind for _, kind in asked])
    common = [k for k in np.unique(kinds) if (kinds == k).sum() >= 5]
    return dict(
        eight=right.mean(),
        five=five.mean(),
        five_balanced=np.mean([five[kinds == k].mean() for k in common]),
        certain=sure.mean(),
        wrong_of_certain=(~right[sure]).mean() if sure.any() else 0.0,
    )


def with_settings(strength, before, chance):
    "Set the rooms' constants"
    laboratory.STRENGTH.update({k: v * strength for k, v in SHIPPED_STRENGTH.items()})
    laboratory.BEFORE['taught'] = before
    naming.TAUGHT['alone'] = chance


SHIPPED_STRENGTH = dict(laboratory.STRENGTH)


def taught(lab, k, strength=1.0, before=SHIPPED['before'], chances=(SHIPPED['chance'],)) -> dict:
    "For each chance that a certain class needs the `scores` of `DRAWS` draws"
    found = {chance: [] for chance in chances}
    for seed in range(DRAWS):
        with_settings(strength, before, chances[0])
        labels = drawn(lab, k, seed)
        learnt = learn_laboratory(lab.evidence, labels)
        answer = learnt.class_chances(lab.evidence)
        for chance in chances:
            with_settings(strength, before, chance)
            found[chance].append(scores(lab, answer, learnt.taught, labels >= 0))
    return found


def intervals(lab, k=5) -> dict:
    """Of each draw the differential of the cells that were not drawn: how often its intervals of the taught
    classes hold their shares, and how wide they are."""
    held, width = [], []
    for seed in range(DRAWS):
        labels = drawn(lab, k, seed)
        learnt = learn_laboratory(lab.evidence, labels)
        alone = left_out_names(lab.evidence, labels)
        told = alone >= 0
        confusion = elsewhere(count_confusion(labels[told], alone[told]))
        rest = [(at, kind) for at, kind in zip(lab.asked, lab.truth) if at >= 0 and labels[at] < 0]
        at, truth = map(np.array, zip(*rest))
        named = learnt.class_chances(lab.evidence).argmax(1)[at]
        shares = differential(named, None, confusion, [CLASSES[k] for k in learnt.classes]).set_index('class')
        for kind in learnt.classes:
            row, true = shares.loc[CLASSES[kind]], (truth == kind).mean()
            held.append(row.low <= true <= row.high)
            width.append(row.high - row.low)
    return dict(covered=np.mean(held), width=np.mean(width), n=len(held))


def mean_of(rows) -> dict:
    "Means over draws, with the spread of the draws"
    return {
        k: dict(mean=round(float(np.mean(v)), 5), low=round(float(np.percentile(v, 2.5)), 5),
                high=round(float(np.percentile(v, 97.5)), 5), n=len(v))
        for k, v in {k: [row[k] for row in rows] for k in rows[0]}.items()
    }  # fmt: skip


def choose(grid, others) -> dict:
    """The settings with the highest sum of five-class accuracy and of certain cells, in the mean of `others`.

    Among those at which at most `RISK` of the certain are wrong in each of them."""

    def worth(key):
        rows = [grid[name][key] for name in others]
        safe = all(row['wrong_of_certain']['mean'] <= RISK for row in rows)
        return safe, np.mean([row['five']['mean'] + row['certain']['mean'] for row in rows])

    return dict(zip(('strength', 'before', 'chance'), max(next(iter(grid.values())), key=worth)))


def main(device: str = 'cpu', threads: int = 2):
    "Measure all three sets."
    torch.set_num_threads(threads)
    networks = load_networks('blood-unet-64', device)
    sets = {name: (load_expert(name), None) for name in SETS[:2]} | dict(bccd=bccd_fields())
    labs = {name: gather(*given, networks, device) for name, given in sets.items()}
    grid = {
        name: {
            (*pair, chance): mean_of(rows)
            for pair in itertools.product(GRID['strength'], GRID['before'])
            for chance, rows in taught(lab, 5, *pair, GRID['chance']).items()
        }
        for name, lab in labs.items()
    }
    with_settings(*SHIPPED.values())
    rows = {}
    for name, lab in labs.items():
        alone = learn_laboratory(lab.evidence).class_chances(lab.evidence)
        others = [other for other in SETS if other != name]
        chosen = choose(grid, others)
        rows[name] = dict(
            n=len(lab.truth),
            cells=len(lab.grounds),
            before=scores(lab, lab.evidence.before),
            without_labels=scores(lab, alone),
            labels={k: mean_of(taught(lab, k)[SHIPPED['chance']]) for k in LABELS},
            before_of_not_drawn=mean_of(
                [scores(lab, lab.evidence.before, (), drawn(lab, 5, seed) >= 0) for seed in range(DRAWS)]
            ),
            differential=intervals(lab),
            left_out=dict(settings=chosen) | grid[name][tuple(chosen.values())],
        )
        right = [
            FIVE[lab.evidence.before[at][FIVE].argmax()] == kind
            for at, kind in zip(lab.asked, lab.truth)
            if at >= 0
        ]
        rows[name]['five_before'] = interval(np.array(right, float))
        wrong_label = doubted(sets[name][0])
        if wrong_label.any():  # neither taught nor asked for
            sound = lab._replace(asked=lab.asked[~wrong_label], truth=lab.truth[~wrong_label])
            rows[name]['without_doubted'] = dict(
                n=len(sound.truth),
                before=scores(sound, lab.evidence.before),
                labels={k: mean_of(taught(sound, k)[SHIPPED['chance']]) for k in LABELS[-1:]},
            )
        print(name, *(f'{k}: {v}' for k, v in rows[name].items()), sep='\n  ', flush=True)
    write_json(
        dict(
            settings=SHIPPED
            | dict(strengths=SHIPPED_STRENGTH, before_untaught=laboratory.BEFORE['untaught']),
            chosen_on_all=choose(grid, SETS),
            grid=GRID,
            sets=rows,
            classes=[CLASSES[k] for k in FIVE],
            side=SIDE,
            draws=DRAWS,
            network=sha256_file(checkpoint_folder('blood-unet-64') / 'model.safetensors'),
            versions=versions(),
        ),
        RESULTS / 'own_laboratory.json',
    )


if __name__ == '__main__':
    typer.run(main)
