"""The label recipe and the networks that learnt from it, explained by the same parts.

Exact Shapley values, agreement, context; results/teacher.json.

python bench/teacher.py                     # both settings
python bench/teacher.py bloodmnist-28       # one; the other stays in the file as it is

Plain values run over all cells of a setting; a claim is tested on some of them under every fill that
qualifies for both models, with masks grown and shrunk by 1 px, and against shifted placebos of equal area.
Fills of two colours run on those cells alone.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from blood_unet.coalitions import PARTS, QUALIFIED, fill_qualifies
from blood_unet.core import sha256_arrays, sha256_file, versions
from blood_unet.data import SHORT, load_cells, resize_cells
from blood_unet.experts import load_expert
from blood_unet.files import write_json
from blood_unet.images import to_tensor
from blood_unet.metrics import dice, interval
from blood_unet.model import BloodUNet, checkpoint_folder
from blood_unet.predict import predict
from blood_unet.preprocessing import make_masks
from blood_unet.shapley import shapley_interactions
from blood_unet.targets import RecipeModel
from blood_unet.teacher import (
    ALL,
    COMPARED,
    CONTEXT,
    EMPTY,
    NUCLEUS_ONLY,
    agreement,
    claim,
    coalition_masks,
    effects,
    fixed_recipe,
    follows,
    mask_values,
    part_masks,
    parts_game,
    placebo_game,
    players_of,
)

OUT = Path(__file__).parent / 'results' / 'teacher.json'
SETTINGS = {
    'bloodmnist-28': ('blood-unet-28', 64, 200),
    'experts-64': ('blood-unet-64', None, 80),
}  # network, cells a class (None: all), cells for the tests
SETS = ('jiangxi', 'cellavision', 'all_idb2')
MODELS = ('teacher', 'thresholds held', 'pupil')


def per_class(labels, each: int, seed: int = 0):
    """Positions of `each` images of every class in `labels` (N,), or all of a smaller class, drawn at random
    and in order: int64.
    """
    rng = np.random.default_rng(seed)
    return np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:each] for c in np.unique(labels)])
    )


def make_models(images, pupil) -> dict:
    """The three of `MODELS` for uint8 images (N, H, W, 3).

    The recipe, the recipe with each image's thresholds held, and the network.
    """
    return dict(
        zip(
            MODELS,
            (
                RecipeModel(lambda x: make_masks(x, 'nucleus')),
                [RecipeModel(fixed_recipe(image)) for image in images],
                pupil,
            ),
        )
    )


def compared(tables: dict) -> dict:
    """Intervals of every column of `effects` tables, by model, and of the paired difference of pupil and
    teacher.
    """
    sides = {
        'pupil minus teacher': ('pupil', 'teacher'),
        'teacher minus thresholds held': ('teacher', 'thresholds held'),
    }
    return {
        column: (
            {model: interval(table[column], 4) for model, table in tables.items()}
            | {name: interval(tables[a][column] - tables[b][column], 4) for name, (a, b) in sides.items()}
        )
        for column in tables['teacher']
    }


def agreed(a: pd.DataFrame, b: pd.DataFrame, which: str) -> dict:
    """Intervals of `agreement` of the `which` ('whole' or 'context') columns of two `effects` tables, the
    median cosine, and the share of cells above .9.
    """
    columns = [c for c in a if c.startswith(which) and not c.endswith('everything')]
    found = agreement(a[columns], b[columns])
    row = {name: interval(found[name].dropna(), 4) for name in found} | {
        'same minus other': interval((found.same - found.other).dropna(), 4)
    }
    return row | dict(
        median=round(float(found.same.median()), 4), above=round(float((found.same.dropna() > 0.9).mean()), 4)
    )


def summarise(masks: dict, region) -> dict:
    """What is compared under one fill, JSON-ready.

    `masks`, by model of `MODELS`, from `coalition_masks` of the five parts; `region` (N, H, W), the nucleus
    by the parts' masks.

    Dice units; every mean with n and a 95 % bootstrap interval over images. Images on which a model finds
    nothing untouched must be left out before.
    """
    values = {model: mask_values(m) for model, m in masks.items()}
    tables = {model: effects(v) for model, v in values.items()}
    shown = {
        name: {model: interval(dice(m[:, row], region), 4) for model, m in masks.items()}
        for name, row in (('whole picture', ALL), ('nucleus only', NUCLEUS_ONLY))
    }
    return dict(
        n=len(region),
        empty={m: interval(v[:, EMPTY], 4) for m, v in values.items()},
        qualifies={m: fill_qualifies(v[:, EMPTY]) for m, v in values.items()},
        effects=compared(tables),
        same_region=compared({model: effects(mask_values(m, region)) for model, m in masks.items()}),
        agreement={
            game: {other: agreed(tables[other], tables['pupil'], game) for other in MODELS[:2]}
            for game in ('whole', 'context')
        },
        follows=interval(follows(masks['teacher'], masks['pupil']), 4),
        nucleus=shown,
        both_masks={
            name: interval(dice(masks['pupil'][:, row], masks['teacher'][:, row]), 4)
            for name, row in (('whole picture', ALL), ('nucleus only', NUCLEUS_ONLY))
        },
        cells={
            model: [round(float(v), 3) for v in table['context: everything']]
            for model, table in tables.items()
        }
        | dict(
            cosine=[
                round(float(v), 3)
                for v in agreement(tables['teacher'].iloc[:, :5], tables['pupil'].iloc[:, :5]).same.fillna(0)
            ]
        ),
    )


def bloodmnist(size, each):
    "Cells of the test split, as many of each class; images, part masks, groups, names of the groups, source."
    cells = load_cells('bloodmnist', 'test', size)
    cells = cells.subset(per_class(cells.labels, each))
    return (
        cells.images,
        part_masks(cells.images),
        cells.labels,
        SHORT,
        cells.source,
        "nucleus: recipe multiotsu; cell and neighbours: recipes cell and red",
    )


def experts(size):
    """The given halves of the expert sets at one size, grouped by set.

    Neighbours by recipe, since no expert drew them.
    """
    sets = [resize_cells(replace(load_expert(name, 'report'), red=None), size) for name in SETS]
    images, nucleus, cell = (
        np.concatenate([getattr(s, key) for s in sets]) for key in ('images', 'nucleus', 'cell')
    )
    groups = np.repeat(np.arange(3), [len(s) for s in sets])
    return (
        images,
        (nucleus, cell, make_masks(images, 'red') & ~cell),
        groups,
        SETS,
        'expert sets, odd images',
        'nucleus and cell: experts; neighbours: recipe red',
    )


def take(images, masks, groups, rows):
    return images[rows], tuple(m[rows] for m in masks), groups[rows]


def masks_of(images, players, fill, models):
    return {
        name: coalition_masks(parts_game(to_tensor(images), players, fill), model)
        for name, model in models.items()
    }


def interactions(masks):
    "Mean pairwise interactions by model and of their paired difference."
    found = {model: shapley_interactions(mask_values(masks[model])) for model in MODELS}
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    return {
        f'{PARTS[i]} x {PARTS[j]}': (
            {m: interval(v[:, i, j], 4) for m, v in found.items()}
            | {'pupil minus teacher': interval(found['pupil'][:, i, j] - found['teacher'][:, i, j], 4)}
        )
        for i, j in pairs
    }


def by_group(masks, groups, names):
    "Cosine of the whole game's values and what is lost without context, for each class or set."
    table = {model: effects(mask_values(m)) for model, m in masks.items()}
    cosine = agreement(table['teacher'].iloc[:, :5], table['pupil'].iloc[:, :5]).same.to_numpy()

    def pick(values, g):
        return interval(values[(groups == g) & np.isfinite(values)], 4)

    return {
        names[g]: (
            dict(cosine=pick(cosine, g))
            | {model: pick(t['context: everything'].to_numpy(), g) for model, t in table.items()}
        )
        for g in np.unique(groups)
    }


def variants(images, masks, models, fills, log):
    """Everything that a claim is tested on: by variant, by model, the effects.

    By fill, part and model, the placebos' and who has one; and the masks' own statistics.
    """
    found, placebos, own = {}, {}, {}
    region, pair = masks[0], {name: models[name] for name in ('teacher', 'pupil')}
    for fill in fills:
        for pixels in (0, 1, -1):
            name = f'{fill}, masks {pixels:+d} px' if pixels else f'{fill}, masks as they are'
            m = masks_of(images, players_of(masks, pixels), fill, pair)
            found[name] = {k: effects(mask_values(v)) for k, v in m.items()}
            own[name] = dict(
                follows=follows(m['teacher'], m['pupil']),
                nucleus=dice(m['pupil'][:, NUCLEUS_ONLY], region)
                - dice(m['teacher'][:, NUCLEUS_ONLY], region),
            )
            log(name)
        for part in PARTS[:-1]:
            game, there = placebo_game(parts_game(to_tensor(images), players_of(masks), fill), part)
            placebos[fill, part] = (
                {k: effects(mask_values(coalition_masks(game, model))) for k, model in pair.items()},
                there,
            )
            log(f'{fill}, placebo of {part}')
    return found, placebos, own


def say(verdict, n):
    return dict(
        sign=verdict.sign,
        holds=verdict.holds,
        against=verdict.against,
        n=n,
        first=next(iter(verdict.rows.values())),
        rows=verdict.rows,
    )


def claims(found, placebos, own, usable):
    """Every claim's verdict.

    `usable` (N,): nuclei with a core in all variants; others have no rim of 2 px, and say nothing about core
    and rim.
    """
    who = {
        'teacher': lambda t, c: t['teacher'][c].to_numpy(),
        'pupil': lambda t, c: t['pupil'][c].to_numpy(),
        'pupil minus teacher': lambda t, c: (t['pupil'][c] - t['teacher'][c]).to_numpy(),
    }
    verdicts = {}
    for column in [f'whole: {p}' for p in PARTS[:-1]] + [
        f'context: {p}' for p in (*CONTEXT[:-1], 'everything')
    ]:
        game, part = column.split(': ')
        rows = usable if part.startswith('nucleus') else np.ones_like(usable)
        for name, value in who.items():
            tested = {v: value(t, column)[rows] for v, t in found.items()}
            if part in PARTS:
                for (fill, other), (t, there) in placebos.items():
                    keep = rows & there
                    if other == part and keep.any():
                        tested[f'{fill}, beyond placebo'] = (
                            value(found[f'{fill}, masks as they are'], column) - value(t, column)
                        )[keep]
            verdicts[f'{name}, {column}'] = say(claim(tested), int(rows.sum())) | dict(placebo=part in PARTS)
    for game in ('whole', 'context'):
        columns = [
            c
            for c in found[next(iter(found))]['teacher']
            if c.startswith(game) and not c.endswith('everything')
        ]
        agree = {v: agreement(t['teacher'][columns], t['pupil'][columns]) for v, t in found.items()}
        verdicts[f'agreement beyond other cells, {game}'] = say(
            claim({v: (a.same - a.other).dropna() for v, a in agree.items()}), len(usable)
        ) | dict(placebo=False)
    for key in ('follows', 'nucleus'):
        verdicts[key] = say(claim({v: o[key] for v, o in own.items()}), len(usable)) | dict(placebo=False)
    return verdicts


def measure(name):
    checkpoint, each, tested = SETTINGS[name]
    start = time.perf_counter()

    def means(rows):
        return {k: v['mean'] for k, v in rows.items()}

    def log(text):
        return print(f'{name} {time.perf_counter() - start:6.0f} s  {text}', flush=True)

    size = int(name[-2:])
    images, masks, groups, names, source, drawn_by = bloodmnist(size, each) if each else experts(size)
    pupil = BloodUNet.from_pretrained(checkpoint).to(memory_format=torch.channels_last)
    models = make_models(images, pupil)
    untouched = [
        models['teacher'](to_tensor(images)).mask_logits[:, 0].numpy() > 0,
        predict(pupil, images).nucleus,
    ]
    use = np.all([m.any((1, 2)) for m in (*untouched, masks[0])], axis=0)
    digest, given, (images, masks, groups) = (
        sha256_arrays(images),
        len(images),
        take(images, masks, groups, use),
    )
    models = make_models(images, pupil)
    log(f'{len(images)} of {given} cells')
    order = np.sort(np.random.default_rng(0).permutation(len(images))[:tested])
    few, few_models = take(images, masks, groups, order), make_models(images[order], pupil)
    result = {}
    for fill in COMPARED:
        (i, p, g), three = (
            ((images, masks, groups), models)
            if fill == 'mean' or fill.endswith('flat')
            else (few, few_models)
        )
        m = masks_of(i, players_of(p), fill, three)
        result[fill] = summarise(m, p[0]) | dict(by_group=by_group(m, g, names), interactions=interactions(m))
        if fill != COMPARED[0]:
            result[fill].pop('cells')
        log(
            f'{fill}: n {len(i)}, empty {means(result[fill]["empty"])}, context'
            f' {means(result[fill]["effects"]["context: everything"])}'
        )
    both = [
        fill
        for fill in COMPARED
        if result[fill]['qualifies']['teacher'] and result[fill]['qualifies']['pupil']
    ]
    count = {names[g]: int((groups == g).sum()) for g in np.unique(groups)}
    images, masks, groups = few
    cores = [(players_of(masks, pixels).labels == 0).flatten(1).any(1).numpy() for pixels in (0, 1, -1)]
    verdicts = claims(*variants(images, masks, few_models, both, log), np.all(cores, axis=0))
    return dict(
        data=source,
        digest=digest,
        size=size,
        parts=drawn_by,
        checkpoint=checkpoint,
        sha256=sha256_file(checkpoint_folder(checkpoint) / 'model.safetensors'),
        given=given,
        n=int(use.sum()),
        groups=count,
        fills=result,
        qualified=both,
        tested=len(order),
        without_core=int((~np.all(cores, axis=0)).sum()),
        claims=verdicts,
        seconds=round(time.perf_counter() - start),
    )


def main(settings: list[str] = typer.Argument(None), threads: int = 1):
    torch.set_num_threads(threads)
    for name in settings or SETTINGS:
        row = measure(name)
        before = json.loads(OUT.read_text())['settings'] if OUT.exists() else {}
        write_json(
            dict(
                settings=before | {name: row},
                limit=QUALIFIED,
                seed=0,
                threads=threads,
                models=MODELS,
                target='hard Dice with the mask of the whole picture',
                versions=versions(),
            ),
            OUT,
        )


if __name__ == '__main__':
    typer.run(main)
