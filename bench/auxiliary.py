"""The auxiliary model: trees on cell measurements, a line on bottleneck features, and what the trees look at,
results/auxiliary.json.

python bench/auxiliary.py [--train 2000] [--large 800]

Fitted to cells of BloodMNIST's training split, asked about the test split, at 28 px and, with fewer cells, at
64 px. Measurements come from the network's masks and, apart, from recipe masks. Two targets: the true class,
and the class that the network names.
"""

from pathlib import Path

import numpy as np
import torch
import typer

from blood_unet.auxiliary import (
    bottleneck_features,
    explain_auxiliary,
    fit_auxiliary,
    fit_probe,
    importance,
    measurements,
)
from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.metrics import interval
from blood_unet.data import load_cells
from blood_unet.model import BloodUNet, checkpoint_folder
from blood_unet.predict import predict
from blood_unet.preprocessing import add_masks

RESULTS = Path(__file__).parent / 'results'


def inputs(network, cells):
    "What the auxiliary models see, and the class that the network names."
    said, recipe = predict(network, cells.images), add_masks(cells)
    return dict(
        network=measurements(cells.images, said.nucleus, said.cell),
        recipe=measurements(cells.images, recipe.nucleus, recipe.cell),
        bottleneck=bottleneck_features(network, cells.images),
    ), said.class_probability.argmax(1)


def one_size(size: int, limit: int, limit_test: int, seed: int):
    name = f'blood-unet-{size}'
    network, rng = BloodUNet.from_pretrained(name), np.random.default_rng(seed)
    train, test = (
        load_cells('bloodmnist', 'train', size, limit=limit, seed=seed, drop_duplicates=True),
        load_cells('bloodmnist', 'test', size, limit=limit_test, seed=seed),
    )
    (see, named), (see_test, named_test) = inputs(network, train), inputs(network, test)
    print(size, 'seen', flush=True)

    def trees(key, y):
        return fit_auxiliary(see[key], y, seed).predict(see_test[key])

    def line(key, y):
        return fit_probe(see[key], y).predict(np.asarray(see_test[key]))

    ways = {
        'trees, measurements by the network\'s masks': lambda y: trees('network', y),
        'trees, measurements by recipe masks': lambda y: trees('recipe', y),
        'line, measurements by the network\'s masks': lambda y: line('network', y),
        'line, bottleneck': lambda y: line('bottleneck', y),
        'trees, shuffled labels': lambda y: trees('network', rng.permutation(y)),
    }
    wrong, right = named_test != test.labels, named_test == test.labels
    rows = {'the network': dict(truth=interval(right))}
    for way, ask in ways.items():
        for_truth, for_network = ask(train.labels), ask(named)
        rows[way] = dict(
            truth=interval(for_truth == test.labels),
            truth_minus_network=interval((for_truth == test.labels) * 1.0 - right),
            network=interval(for_network == named_test),
            network_where_wrong=interval((for_network == named_test)[wrong]),
        )
        print(size, way, {k: v['mean'] for k, v in rows[way].items()}, flush=True)
    noisy, noisy_test = (
        t.assign(random_number=rng.random(len(t))) for t in (see['network'], see_test['network'])
    )
    weights = importance(explain_auxiliary(fit_auxiliary(noisy, named, seed), noisy_test))
    return dict(
        checkpoint=name,
        sha256=sha256_file(checkpoint_folder(name) / 'model.safetensors'),
        n_train=len(train),
        n_test=len(test),
        wrong=int(wrong.sum()),
        source=test.source,
        train_digest=train.digest,
        test_digest=test.digest,
        accuracy=rows,
        importance=weights.to_dict('records'),
    )


def main(train: int = 2000, large: int = 800, seed: int = 0, threads: int = 1):
    torch.set_num_threads(threads)
    write_json(
        dict(
            seed=seed,
            sizes={'28': one_size(28, train, train, seed), '64': one_size(64, large, large, seed)},
            versions=versions(('blood_unet', 'torch', 'numpy', 'scikit-learn', 'scikit-image', 'shap')),
        ),
        RESULTS / 'auxiliary.json',
    )


if __name__ == '__main__':
    typer.run(main)
