"""Experts' words within a class, and what a cell's granules do to its class, results/attributes.json.

python bench/attributes.py [--train 300] [--cells 110]

Words: WBCAtt's, on all cells of BloodMNIST's test split that have them. What has to be fitted is fitted
within the class, on up to `--train` cells a class of the training split. Granules: up to `--cells` test cells
a class; the cytoplasm, by recipe masks, is flattened, shuffled or recoloured, beside the same change to as
many background pixels next to the cell.

What was chosen while looking at test cells (how a nucleus narrows, flattening as the change) is tried again
on the validation split: `again`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from scipy import ndimage as ndi

from blood_unet.auxiliary import (
    WORDS,
    background_ring,
    bottleneck_features,
    fit_probe,
    load_words,
    measurements,
    narrowing,
    recolour,
    shuffle_within,
    word_rows,
)
from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.metrics import auroc, auroc_interval, interval
from blood_unet.data import CLASSES, find_data, load_cells
from blood_unet.targets import ClassLogOdds, score
from blood_unet.model import BloodUNet, Output, checkpoint_folder
from blood_unet.images import to_tensor
from blood_unet.predict import predict
from blood_unet.preprocessing import add_masks

RESULTS = Path(__file__).parent / 'results'
COLOURS = [f'{part}_{c}' for part in ('nucleus', 'cytoplasm') for c in ('red', 'green', 'blue')]
MEANING = {
    'nuclear_cytoplasmic_ratio': 'nc_ratio',
    'cytoplasm_vacuole': 'cytoplasm_texture',
    'nucleus_shape': 'nucleus_narrowing',
}


def class_drop(model, x, changed, labels):
    """How much log-odds of its class `labels` (N,) each image loses by a change.

    float images (N, 3, H, W) to float64 (N,), positive where the class gets less likely.
    """
    target = ClassLogOdds(np.asarray(labels))
    return score(model, target, x) - score(model, target, changed)


def explanations(network, cells, chunk: int = 256):
    """What flattening and shuffling its cytoplasm, by recipe masks, takes from the log-odds of a cell's
    class: (N, 2); 0 where there is no cytoplasm.
    """
    cytoplasm, drops = cells.cell & ~cells.nucleus, np.zeros((len(cells), 2))
    some = np.flatnonzero(cytoplasm.any((1, 2)))
    for rows in np.split(some, range(chunk, len(some), chunk)):
        x = to_tensor(cells.images[rows])
        for column, change in enumerate((lambda x, m: recolour(x, m, texture=0), shuffle_within)):
            drops[rows, column] = class_drop(network, x, change(x, cytoplasm[rows]), cells.labels[rows])
    return drops


def look_at(network, split: str, limit: int = None):
    "All that predictors of words see, of up to `limit` cells of each class that has words."
    everything, words, rng = load_cells('bloodmnist', split, 64), load_words(split), np.random.default_rng(0)
    spoken = words.nucleus_shape.notna().to_numpy()
    kept = np.sort(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero((everything.labels == k) & spoken))[:limit]
                for k in sorted({w.label for w in WORDS.values()})
            ]
        )
    )
    cells, words = everything.subset(kept), words.iloc[kept].reset_index(drop=True)
    said, recipe = predict(network, cells.images), add_masks(cells)
    seen = dict(
        network=measurements(cells.images, said.nucleus, said.cell),
        picture=pd.DataFrame(cells.images.mean((1, 2))),
        bottleneck=pd.DataFrame(bottleneck_features(network, cells.images)),
        recipe=pd.DataFrame(
            dict(
                nc_ratio=recipe.nucleus.sum((1, 2)) / recipe.cell.sum((1, 2)).clip(1),
                nucleus_narrowing=[narrowing(m) for m in recipe.nucleus],
            )
        ),
    )
    print(split, len(cells), 'measured', flush=True)
    seen['explanation'] = pd.DataFrame(explanations(network, recipe), columns=['flattened', 'shuffled'])
    return seen, words, cells


def predictors(word, train, test, rows, rows_test, positive):
    "Scores of the word's test cells, a predictor a name; what is fitted sees training cells only."
    shape = [c for c in train['network'] if c not in COLOURS]
    column, scores = MEANING[word.column], {}
    scores[column] = test['network'][column].to_numpy()[rows_test]
    if column in test['recipe']:
        scores[f'{column}, recipe masks'] = test['recipe'][column].to_numpy()[rows_test]
    scores['cell area'] = test['network'].cell_area.to_numpy()[rows_test]

    def join(seen):
        return np.hstack([seen['network'][COLOURS], seen['picture']])

    fitted = {
        'shape and texture': lambda seen: seen['network'][shape].to_numpy(),
        'bottleneck': lambda seen: seen['bottleneck'].to_numpy(),
        'colours of the parts': lambda seen: seen['network'][COLOURS].to_numpy(),
        'colours of parts and picture': join,
    }
    for name, see in fitted.items():
        scores[name] = fit_probe(see(train)[rows], positive).decision_function(see(test)[rows_test])
    for name in ('flattened', 'shuffled'):
        scores[f'class lost by cytoplasm {name}'] = (
            np.sign(auroc(positive, train['explanation'][name].to_numpy()[rows]) - 0.5)
            * test['explanation'][name].to_numpy()[rows_test]
        )
    if auroc(positive, train['network'].cell_area.to_numpy()[rows]) < 0.5:
        scores['cell area'] = -scores['cell area']
    return {k: np.nan_to_num(v) for k, v in scores.items()}


def words_table(training, tested):
    "Every word's predictors, fitted on the first of two `look_at`, measured on the second."
    (train, train_words, train_cells), (test, test_words, test_cells) = training, tested
    table = {}
    for name, word in WORDS.items():
        rows, positive = word_rows(train_words, train_cells.labels, word)
        rows_test, truth = word_rows(test_words, test_cells.labels, word)
        scores = predictors(word, train, test, rows, rows_test, positive)

        def against(values, other):
            return auroc_interval(truth, values, scores[other])

        table[name] = dict(
            n_train=len(rows),
            positive_train=int(positive.sum()),
            n=len(rows_test),
            positive=int(truth.sum()),
            predictors={
                k: dict(
                    auroc=auroc_interval(truth, v),
                    beyond_colours=against(v, 'colours of the parts'),
                    beyond_all_colours=against(v, 'colours of parts and picture'),
                    beyond_cell_area=against(v, 'cell area'),
                )
                for k, v in scores.items()
            },
        )
        if f'{MEANING[word.column]}, recipe masks' in scores:
            table[name]['network_masks_minus_recipe_masks'] = against(
                scores[MEANING[word.column]], f'{MEANING[word.column]}, recipe masks'
            )
        print(name, {k: v['auroc']['mean'] for k, v in table[name]['predictors'].items()}, flush=True)
    return table


def granules(size: int, per_class: int, split: str = 'test'):
    """What three changes of the cytoplasm, and of as much background, take from the log-odds of a cell's
    class; by class.
    """
    name = f'blood-unet-{size}'
    network, cells, rng = (
        BloodUNet.from_pretrained(name),
        load_cells('bloodmnist', split, size),
        np.random.default_rng(0),
    )
    cells = add_masks(
        cells.subset(
            np.concatenate(
                [np.sort(rng.permutation(np.flatnonzero(cells.labels == k))[:per_class]) for k in range(7)]
            )
        )
    )
    area = (cells.cell & ~cells.nucleus).sum((1, 2))
    fits = (area >= size / 4) & (
        area <= (~cells.cell).sum((1, 2))
    )  # a cytoplasm to change, and as much background
    cells = cells.subset(fits)
    area = area[fits]
    x, labels, cytoplasm = to_tensor(cells.images), cells.labels, cells.cell & ~cells.nucleus
    ring, common = (
        background_ring(cells.cell, area),
        x.permute(0, 2, 3, 1)[torch.from_numpy(cytoplasm)].mean(0),
    )
    inner = np.stack(
        [ndi.binary_erosion(c) & ~ndi.binary_dilation(n) for c, n in zip(cells.cell, cells.nucleus)]
    )
    inner = np.where(
        inner.any((1, 2), keepdims=True), inner, cytoplasm
    )  # a cytoplasm too thin to shrink stays as it is
    changes = dict(
        flattened=lambda m: recolour(x, m, texture=0),
        shuffled=lambda m: shuffle_within(x, m),
        recoloured=lambda m: recolour(x, m, common),
    )

    def ask(pictures):
        "Log-odds of the cells' classes, and the classes named."
        with torch.no_grad():
            logits = torch.cat([network(p).class_logits for p in pictures.split(256)])
        return (
            ClassLogOdds(labels)(Output(None, logits), torch.arange(len(labels))).double().numpy(),
            logits.argmax(1).numpy(),
        )

    (before, named), table = ask(x), {}
    for change, way in changes.items():
        drop, other, size_of = {}, {}, {}
        for where, mask in (
            ('cytoplasm', cytoplasm),
            ('cytoplasm, shrunk by 1 px', inner),
            ('placebo', ring),
        ):
            pictures = way(mask)
            after, other[where] = ask(pictures)
            drop[where], size_of[where] = (
                before - after,
                (pictures - x).abs().mean(1).sum((1, 2)).numpy() / area,
            )
        rows = {}
        for k in range(7):
            own = labels == k
            became = np.bincount(other['cytoplasm'][own & (other['cytoplasm'] != named)], minlength=8)
            rows[CLASSES[k]] = dict(
                before=interval(before[own]),
                **{w: interval(v[own]) for w, v in drop.items()},
                difference=interval((drop['cytoplasm'] - drop['placebo'])[own]),
                difference_shrunk=interval((drop['cytoplasm, shrunk by 1 px'] - drop['placebo'])[own]),
                renamed={w: interval((o != named)[own] * 1.0) for w, o in other.items()},
                pixel_change={w: interval(v[own]) for w, v in size_of.items()},
                became=CLASSES[int(became.argmax())] if became.any() else None,
                became_share=round(float(became.max() / max(became.sum(), 1)), 3),
            )
        table[change] = rows
        print(
            size,
            split,
            change,
            {k: (v['difference']['mean'], v['became']) for k, v in rows.items()},
            flush=True,
        )
    return dict(
        checkpoint=name,
        sha256=sha256_file(checkpoint_folder(name) / 'model.safetensors'),
        digest=cells.digest,
        changes=table,
    )


def main(train: int = 300, cells: int = 110, threads: int = 1):
    torch.set_num_threads(threads)
    name = 'blood-unet-64'
    facts = dict(
        checkpoint=name,
        sha256=sha256_file(checkpoint_folder(name) / 'model.safetensors'),
        train_a_class=train,
        cells_a_class=cells,
        seed=0,
        source=load_cells('bloodmnist', 'test', 64).source,
        wbcatt=sha256_file(find_data('wbcatt.csv')),
    )
    found = {str(size): granules(size, cells) for size in (28, 64)}
    network = BloodUNet.from_pretrained(name)
    training = look_at(network, 'train', train)
    words, again = (words_table(training, look_at(network, split)) for split in ('test', 'val'))
    again = dict(split='val', words=again, granules=granules(64, cells, 'val'))
    write_json(
        facts
        | dict(
            words=words,
            granules=found,
            again=again,
            versions=versions(('blood_unet', 'torch', 'numpy', 'scikit-learn', 'scikit-image')),
        ),
        RESULTS / 'attributes.json',
    )


if __name__ == '__main__':
    typer.run(main)
