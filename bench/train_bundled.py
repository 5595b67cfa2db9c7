"""Train the bundled networks, and measure and publish what was trained.

python bench/train_bundled.py train blood-unet-28 --seed 0     # resumes where it stopped python
bench/train_bundled.py publish                          # half precision, model cards, measured numbers python
bench/train_bundled.py cards                            # the model cards again, from the measured numbers

Training reads BloodMNIST's training split alone; the masks come from the recipes of 02_preprocessing, or from
a network that learnt from them, never from an expert. Runs land in runs/ (ignored by git), with one thread
each, so that two can share a machine of two cores.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from safetensors import safe_open

from blood_unet.core import sha256_file, versions
from blood_unet.files import atomic_path, write_json
from blood_unet.metrics import dice, interval
from blood_unet.data import load_cells, phantom
from blood_unet.experts import load_expert
from blood_unet.model import BUNDLED, BloodUNet, count_parameters, save_checkpoint
from blood_unet.predict import TestTimeAugmentation, predict
from blood_unet.preprocessing import connected_to_nucleus, finish_nucleus, make_masks, radius, solidity
from blood_unet.training import TrainingConfig, class_scores, evaluate, fit, one_hot

RUNS, RESULTS = Path('runs'), Path(__file__).parent / 'results'


class Plan(NamedTuple):
    """How a network is trained.

    A `teacher` is the finished run of another one, whose word over eight views is asked at its own size.
    """

    size: int
    options: dict
    settings: TrainingConfig
    teacher: str = None
    share: float = 0.5  # of the teacher in the class targets (Hinton et al. 2015)
    start: str = None  # the run whose weights it starts from
    # runs whose masks are learnt instead of the recipes' (self-training: Xie et al. 2020); of several, the
    # most compact
    masks: tuple = ()


LARGE = dict(widths=(16, 32, 64, 128, 192), decoder_depth=1)
NETWORKS = {
    'first-64': Plan(64, LARGE, TrainingConfig(epochs=18, strong=0.35)),
    'second-64': Plan(
        64,
        LARGE,
        TrainingConfig(epochs=8, strong=0.35, regions=0.5, learning_rate=1e-3, smoothing=0.0),
        teacher='first-64',
        start='first-64',
        masks=('first-64',),
    ),
    'blood-unet-64': Plan(
        64,
        LARGE,
        TrainingConfig(epochs=5, strong=0.35, regions=0.6, learning_rate=8e-4, smoothing=0.0),
        teacher='first-64',
        start='second-64',
        masks=('first-64', 'second-64'),
    ),
    'blood-unet-28': Plan(
        28,
        dict(widths=(16, 48, 96, 192), decoder_depth=1),
        TrainingConfig(epochs=26, strong=0.15, turn=0.3, learning_rate=3e-3, smoothing=0.0),
        teacher='first-64',
    ),
    'phantom-28': Plan(
        28,
        dict(widths=(8, 16, 32), decoder_depth=1),
        TrainingConfig(epochs=10, strong=0.2, batch_size=32, learning_rate=4e-3),
    ),
}
app = typer.Typer(help=__doc__)


def labelled(cells):
    "The cells with recipe masks where they have none of their own (the phantom's are exact)."
    if cells.nucleus is not None:
        return cells
    return dataclasses.replace(
        cells, nucleus=make_masks(cells.images, 'nucleus'), cell=make_masks(cells.images, 'cell')
    )


def splits(name):
    "Training and validation cells of a network, with the masks of the recipes."
    size = NETWORKS[name].size
    if name.startswith('phantom'):
        return phantom(3000, size=size, seed=0), phantom(400, size=size, seed=10_000)
    return tuple(labelled(load_cells('bloodmnist', split, size)) for split in ('train', 'val'))


def ask(run, views=TestTimeAugmentation):
    """What a finished network says of the training images: `(nucleus, cell, class probabilities)`.

    Kept in runs/.
    """
    path = RUNS / f'{run}-0' / 'said.npz'
    if not path.exists():
        network, cells = (
            BloodUNet.from_pretrained(path.parent / 'final'),
            load_cells('bloodmnist', 'train', NETWORKS[run].size),
        )
        said = predict(views(network), cells.images)
        nucleus = np.stack([finish_nucleus(mask) for mask in said.nucleus])
        cell = np.stack([tidy(*pair) for pair in zip(said.cell, nucleus)])
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.savez(file, nucleus=nucleus, cell=cell, probability=said.class_probability)
    with np.load(path) as file:
        return file['nucleus'], file['cell'], file['probability']


def tidy(cell, nucleus):
    "A cell mask with its nucleus, without holes, spurs and what does not touch it."
    return connected_to_nucleus(cell | nucleus, nucleus, 0.1 * radius(nucleus)) if nucleus.any() else cell


def compactness(mask):
    """How much a mask looks like a whole cell: solid, large, and inside the picture.

    A cell cut short is small, two cells are not solid.
    """
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    return solidity(mask) + 0.1 * np.log(max(1, mask.sum())) - border


def most_compact(masks, nucleus):
    """The most compact of several answers (H, W) to one cell and of their unions.

    Where each is cut elsewhere, together they are whole.
    """
    masks = [tidy(mask, nucleus) for mask in masks]
    unions = [tidy(a | b, nucleus) for a, b in itertools.combinations(masks, 2) if (a ^ b).any()]
    return max(masks + unions, key=compactness)


def self_taught(cells, runs):
    """The cells with the first run's nuclei and, with several runs, the most compact of their cells and the
    recipe's.
    """
    said = [ask(run, TestTimeAugmentation if run == 'first-64' else lambda network: network) for run in runs]
    cell = said[0][1]
    if len(said) > 1:
        cell = np.stack(
            [
                most_compact(masks, nucleus)
                for *masks, nucleus in zip(cells.cell, *(s[1] for s in said), said[0][0])
            ]
        )
    return dataclasses.replace(cells, nucleus=said[0][0], cell=cell)


@app.command()
def train(name: str, seed: int = 0):
    "Train one network, after those it needs; the state in runs/NAME-SEED is taken up if it is there."
    torch.set_num_threads(1)
    plan = NETWORKS[name]
    for run in dict.fromkeys(filter(None, (plan.teacher, plan.start, *plan.masks))):
        if not (RUNS / f'{run}-0' / 'final').exists():
            train(run)
    settings = dataclasses.replace(plan.settings, seed=seed)
    cells, val = splits(name)
    torch.manual_seed(seed)
    network, targets = BloodUNet(input_size=plan.size, **plan.options), None
    if plan.teacher:
        targets = (
            plan.share * ask(plan.teacher)[2] + (1 - plan.share) * one_hot(cells.labels, len(cells)).numpy()
        )
    if plan.start:
        network.load_state_dict(BloodUNet.from_pretrained(RUNS / f'{plan.start}-0' / 'final').state_dict())
    if plan.masks:
        cells = self_taught(cells, plan.masks)
    folder = RUNS / f'{name}-{seed}'
    history = fit(network, cells, val, settings, folder, targets=targets)
    save_checkpoint(
        network,
        folder / 'final',
        seed=seed,
        settings=dataclasses.asdict(settings),
        digest=cells.digest,
        **{k: getattr(plan, k) for k in ('teacher', 'start', 'masks')},
    )
    print(history.round(4).to_string())


def on_test(network, cells):
    "Class scores on the test split and agreement with the recipe's masks, plain and over eight views."
    rows = {}
    for label, model in (('one view', network), ('eight views', TestTimeAugmentation(network))):
        table = evaluate(model, cells)
        rows[label] = class_scores(table) | dict(
            accuracy_interval=interval((table.label == table.predicted).astype(float)),
            agreement_with_recipe={m: interval(table[f'{m}_dice']) for m in ('nucleus', 'cell')},
        )
    return rows


def on_experts(network):
    "Dice against experts on the half of each set that chose nothing, paired with the label recipe."
    rows = {}
    for name in ('jiangxi', 'cellavision', 'all_idb2'):
        cells = load_expert(name, 'report')
        recipe = {
            m: np.array([dice(a, b).item() for a, b in zip(make_masks(cells.images, m), getattr(cells, m))])
            for m in ('nucleus', 'cell')
        }
        rows[name] = {}
        for label, model in (('one view', network), ('eight views', TestTimeAugmentation(network))):
            table = evaluate(model, cells)
            rows[name][label] = {
                m: dict(
                    network=interval(table[f'{m}_dice']),
                    recipe=interval(recipe[m]),
                    paired=interval(table[f'{m}_dice'] - recipe[m]),
                )
                for m in ('nucleus', 'cell')
            }
    return rows


CARD = """# {name}

Segments the nucleus and the whole of a blood cell and names its class, from \
one RGB image with the cell in the middle.

**Not a medical device.** It must not be used for diagnosis, nor for any decision about a patient. {seen}

- **Network**: `BloodUNet`, {parameters:,} weights, {size} px, \
stored in half precision; config.json says how it is built.
- **Data**: {data}. {masks}; no expert mask was used.
- **Credit**: {credit}
- **Recipe**: `python bench/train_bundled.py train {name} --seed {seed}`; \
seed {seed}; settings and data hash in config.json.

The numbers below are those of the stored file, with 95 % bootstrap intervals over images.

{tables}
"""
SEEN = (
    'It has seen one laboratory,\none analyser and one stain, and healthy donors; nobody knows which of the'
    ' images share a patient.'
)
CREDIT = 'BloodMNIST (MedMNIST v2, Yang et al. 2023), from Acevedo et al. 2020, CC BY 4.0.'


def taught(name):
    "Where the masks and classes of a network come from, in words."
    plan = NETWORKS[name]
    if name.startswith('phantom'):
        return 'Masks and classes: those that the cells were drawn from, which are exact'
    text = 'Masks: the unsupervised recipes `nucleus` and `cell` of 02_preprocessing'
    if plan.masks:
        text += (
            f', through networks trained on them ({", ".join(plan.masks)}), whose answers are less ragged; of'
            f' several whole cells the most compact. Start: the weights of `{plan.start}`'
        )
    if plan.teacher:
        text += (
            f'. Classes: the labels and, with a weight of {plan.share:g}, what `{plan.teacher}` says of the'
            ' same training images'
        )
    return text


def format_interval(row):
    return f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}], n = {row['n']}"


def tables(measured):
    "The measured numbers of one network as Markdown."
    truth = (
        'the exact masks'
        if measured['data'] == 'phantom'
        else 'the recipe (no expert: in-domain Dice not measured)'
    )
    views = [measured['test'][view] for view in ('one view', 'eight views')]

    def row(what, texts):
        return f'| {what} | ' + ' | '.join(texts) + ' |'

    lines = [
        '| test split | one view | eight views |',
        '|---|---|---|',
        row('accuracy', (format_interval(v['accuracy_interval']) for v in views)),
        row('AUROC', (f"{v['auroc']:.4f}" for v in views)),
    ]
    lines += [
        row(f'{m} Dice with {truth}', (format_interval(v['agreement_with_recipe'][m]) for v in views))
        for m in ('nucleus', 'cell')
    ]
    if 'experts' not in measured:
        return '\n'.join(lines)
    lines += [
        '',
        (
            '| expert set (other stains and cameras; odd images; the recipe was chosen on the even ones, but'
            ' the odd ones were seen while it was made) | mask | one view | eight views | recipe | eight'
            ' views minus recipe |'
        ),
        '|---|---|---|---|---|---|',
    ]
    for name in ('jiangxi', 'cellavision', 'all_idb2'):
        views = measured['experts'][name]
        for m in ('nucleus', 'cell'):
            one, eight = views['one view'][m], views['eight views'][m]
            lines.append(
                f'| {name} | {m} | {format_interval(one["network"])} | {format_interval(eight["network"])} |'
                f' {format_interval(one["recipe"])} | {format_interval(eight["paired"])} |'
            )
    return '\n'.join(lines)


def card(name, network, measured):
    "The model card of a stored network, from what was measured."
    drawn, size = name.startswith('phantom'), NETWORKS[name].size
    return CARD.format(
        name=name,
        parameters=count_parameters(network),
        size=size,
        seed=measured['seed'],
        tables=tables(measured),
        masks=taught(name),
        data=(
            f'drawn cells (`data.phantom`) at {size} px, and no blood'
            if drawn
            else f"the training split of {measured['data']} at {size} px"
        ),
        seen='It has seen drawings only; it is there for the tests of this library.' if drawn else SEEN,
        credit='none needed: the cells are drawn by this library.' if drawn else CREDIT,
    )


def history_of(name, seed):
    "The rows of a run's history, after those of the run that it started from."
    with safe_open(RUNS / f'{name}-{seed}' / 'last.safetensors', 'pt') as file:
        rows = pd.DataFrame(json.loads(file.metadata()['history']))
    before = [history_of(NETWORKS[name].start, 0)] if NETWORKS[name].start else []
    table = pd.concat(before + [rows.assign(run=name)], ignore_index=True)
    return table.assign(epoch=range(len(table)))


@app.command()
def publish(names: list[str] = typer.Argument(None), seed: int = 0):
    """Store networks in half precision beside the library, measure the stored files, write their cards and
    measured.json.
    """
    torch.set_num_threads(2)
    for name in names or [n for n in NETWORKS if (BUNDLED / n).exists() or n.startswith('blood')]:
        final = RUNS / f'{name}-{seed}' / 'final'
        facts, drawn = json.loads((final / 'config.json').read_text())['facts'], name.startswith('phantom')
        folder = save_checkpoint(BloodUNet.from_pretrained(final), BUNDLED / name, half=True, **facts)
        network, size = BloodUNet.from_pretrained(folder), NETWORKS[name].size
        measured = dict(
            sha256=sha256_file(folder / 'model.safetensors'),
            bytes=(folder / 'model.safetensors').stat().st_size,
            seed=seed,
            versions=versions(),
        )
        test = (
            phantom(400, size=size, seed=20_000)
            if drawn
            else labelled(load_cells('bloodmnist', 'test', size))
        )
        measured |= dict(data=test.source, test=on_test(network, test))
        if not drawn:
            measured['experts'] = on_experts(network)
        save_checkpoint(network, folder, half=True, card=card(name, network, measured), **facts)
        write_json(measured, folder / 'measured.json')
        with atomic_path(folder / 'history.csv') as path:
            history_of(name, seed).round(6).to_csv(path, index=False)
        print(tables(measured))


@app.command()
def cards():
    "Write the cards of the bundled networks again from their measured.json."
    for folder in sorted(path.parent for path in BUNDLED.glob('*/measured.json')):
        text = card(
            folder.name, BloodUNet.from_pretrained(folder), json.loads((folder / 'measured.json').read_text())
        )
        with atomic_path(folder / 'README.md') as path:
            path.write_text(text)


@app.command()
def seeds(name: str = 'blood-unet-28'):
    "Test accuracy of every finished seed of a network, and of their ensemble; results/seeds.json."
    from blood_unet.predict import Ensemble

    torch.set_num_threads(2)
    test = load_cells('bloodmnist', 'test', NETWORKS[name].size)
    networks = {
        int(p.parent.name.split('-')[-1]): BloodUNet.from_pretrained(p)
        for p in sorted(RUNS.glob(f'{name}-*/final'))
    }

    def score(model):
        return {
            label: class_scores(evaluate(m, test))
            for label, m in (('one view', model), ('eight views', TestTimeAugmentation(model)))
        }

    rows = {str(seed): score(network) for seed, network in networks.items()} | dict(
        ensemble=score(Ensemble(networks.values()))
    )
    table = pd.DataFrame({(s, v): r for s, views in rows.items() for v, r in views.items()}).T
    print(table.round(4).to_string())
    accuracy = {
        view: [rows[str(s)][view]['accuracy'] for s in networks] for view in ('one view', 'eight views')
    }
    write_json(
        dict(
            name=name,
            data=test.source,
            n=len(test),
            rows=rows,
            mean={v: float(np.mean(a)) for v, a in accuracy.items()},
            spread={v: float(np.std(a, ddof=1)) if len(a) > 1 else None for v, a in accuracy.items()},
        ),
        RESULTS / 'seeds.json',
    )


if __name__ == '__main__':
    app()
