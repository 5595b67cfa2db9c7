"""The default batch: pictures a second of `predict`, exact parts and LEN by batch size, and LEN beside lime.

python bench/batches.py

At 64 px, the bundled network, one process, alternating rounds. Above some tens of pictures a batch costs page
faults on the CPU: memory is given back to the system and asked for again at every batch. LEN and lime get the
same superpixels, fill, kernel, plain least squares and number of samples. Lime asks once in the batches of 10
that are its own default, and once in ours, which shows what is left when the batch is taken out.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import torch
import typer
from lime.lime_image import LimeImageExplainer
from sklearn.linear_model import Ridge

from blood_unet.coalitions import make_game, recipe_parts, superpixel_game
from blood_unet.core import versions
from blood_unet.data import phantom
from blood_unet.files import write_json
from blood_unet.images import to_tensor
from blood_unet.local_surrogate import local_surrogate
from blood_unet.model import BloodUNet
from blood_unet.predict import default_batch_size, predict
from blood_unet.shapley import exact_shapley_values
from blood_unet.targets import HardDice, frozen_mask, score

RESULTS = Path(__file__).parent / 'results'
LIME_BATCH = 10  # the default of `explain_instance`
SIZES = (8, 16, 32, 64, 128, 256, 512)


def seconds_of(work) -> float:
    "Seconds of one call."
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # LEN's word on a poor fit
        work()
    return time.perf_counter() - start


def lime_of(network, target, game, samples: int, batch: int):
    "Lime's explanation of the first image of a game, on its superpixels and with its fill."
    picture, hidden = (t[0].permute(1, 2, 0).numpy() for t in (game.x, game.absent))
    labels = game.players.labels[0].numpy()

    def classify(images):
        return score(network, target, torch.from_numpy(images).permute(0, 3, 1, 2))[:, None]

    return LimeImageExplainer(feature_selection='none', random_state=0).explain_instance(
        picture,
        classify,
        labels=(0,),
        top_labels=None,
        hide_color=hidden,
        num_samples=samples,
        batch_size=batch,
        segmentation_fn=lambda _: labels,
        model_regressor=Ridge(0.0),
    )


def main(model: str = 'blood-unet-64', rounds: int = 7, samples: int = 256, threads: int = 2):
    torch.set_num_threads(threads)
    network, cells = BloodUNet.from_pretrained(model), phantom(512, size=64, seed=3)
    x = to_tensor(cells.images[cells.nucleus.any((1, 2))][:4])
    x = x[frozen_mask(network, x).flatten(1).any(1)][:2]
    target, one = HardDice(frozen_mask(network, x)), HardDice(frozen_mask(network, x[:1]))
    parts = recipe_parts((255 * x.permute(0, 2, 3, 1)).round().byte().numpy())
    game, tiles = make_game(x, parts), superpixel_game(x[:1])
    works = {
        'predict, 512 pictures': lambda n: predict(network, cells.images, n, 'cpu'),
        'exact parts, 2 pictures': lambda n: exact_shapley_values(game, network, target, n),
        'LEN, 1 picture': lambda n: local_surrogate(tiles, network, one, samples, batch_size=n),
    }
    taken = {name: {n: [] for n in SIZES} for name in works}
    beside, default = dict(LEN=[], lime=[], lime_in_our_batches=[]), default_batch_size('cpu')
    for _ in range(rounds):
        for name, work in works.items():
            for n in SIZES:
                taken[name][n].append(seconds_of(lambda: work(n)))
        for name, batch in (('lime', LIME_BATCH), ('lime_in_our_batches', default)):
            beside[name].append(seconds_of(lambda: lime_of(network, one, tiles, samples, batch)))
        beside['LEN'].append(seconds_of(lambda: local_surrogate(tiles, network, one, samples, fresh=0)))
    rows = {}
    for name, by_size in taken.items():
        ratios = {n: np.median(np.array(by_size[n]) / np.array(by_size[default])) for n in SIZES}
        rows[name] = dict(
            seconds=round(float(np.median(by_size[default])), 4),
            times_the_default={n: round(float(ratio), 3) for n, ratio in ratios.items()},
        )
        print(name, rows[name])
    ratios = {n: float(np.median(np.array(beside['LEN']) / np.array(s))) for n, s in beside.items()}
    len_lime = {name: round(float(np.median(s)), 4) for name, s in beside.items()}
    print(f'LEN over lime at 64 px, {samples} samples:', ratios, len_lime)
    result = dict(checkpoint=model, default=default, rounds=rounds, threads=threads, rows=rows)
    result |= dict(samples=samples, seconds=len_lime, versions=versions())
    result |= {f'len_over_{name}': round(ratio, 4) for name, ratio in ratios.items() if name != 'LEN'}
    write_json(result, RESULTS / 'batches.json')


if __name__ == '__main__':
    typer.run(main)
