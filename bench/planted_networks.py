"""Small networks that learn a planted label, and go on reading it while parts or pixels of a cell are hidden.

Data/runs/planted/.

python bench/planted_networks.py --families texture_nucleus,texture_cytoplasm --seeds 0,1,2,3,4
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import typer
from scipy import ndimage as ndi

from blood_unet.data import phantom
from blood_unet.phantom import PLANTED
from blood_unet.coalitions import FeatureMask, cell_parts, make_game, masked_images
from blood_unet.model import BloodUNet, save_checkpoint
from blood_unet.predict import predict
from blood_unet.images import to_tensor, to_uint8
from blood_unet.training import TrainingConfig, fit

RUNS = Path(__file__).parent.parent / 'data' / 'runs' / 'planted'
FILLS, SIZE, SEEDS = ('nested', 'background'), 28, (0, 1, 2, 3, 4)


def architecture(seed):
    return (
        dict(widths=(8, 16, 32), attention='both') if seed < 3 else dict(widths=(12, 24), attention='spatial')
    )


def visible(shape, rng):
    "A random picture of what stays visible: bool (H, W), by pixels, patches or blobs, any share of it."
    side, grain = shape[0], rng.choice([1, 2, 4, 7])
    field = np.kron(rng.standard_normal((-(-side // grain),) * 2), np.ones((grain, grain)))[:side, :side]
    if rng.random() < 0.4:
        field = ndi.gaussian_filter(rng.standard_normal(shape), rng.uniform(1, 4))
    return field > np.quantile(field, rng.random())


def regions(cells) -> dict:
    "Bool masks (N, H, W) of the four places where evidence can be."
    return dict(
        nucleus=cells.nucleus & cells.cell,
        cytoplasm=cells.cell & ~cells.nucleus,
        red=cells.red & ~cells.cell,
        background=~cells.cell & ~cells.red,
    )


def bits(cells, flipped, family: str):
    "Which of the family's parts carries the cue: bool (N, parts). Another label changes the first part only."
    if family != 'xor':
        return cells.labels[:, None].astype(bool)
    where = cells.nucleus
    first = ((cells.images[..., 0].astype(float) - flipped.images[..., 0]) * where).sum((1, 2)) < 0
    return np.stack([first, first ^ cells.labels.astype(bool)], 1)


def cell_players(cells) -> FeatureMask:
    return cell_parts(cells.nucleus & cells.cell, cells.cell, cells.red & ~cells.cell)


def hidden_copies(cells, present, family: str, seed: int):
    """Every cell again with parts or pixels hidden, and the probability of 'with'.

    The share of the cue that can still be seen.
    """
    rng, x, parts = np.random.default_rng([seed, 7]), to_tensor(cells.images), cell_players(cells)
    order = torch.from_numpy(rng.permutation(len(x)))
    games = [
        make_game(
            x, parts, fill, donors=x[order], donor_players=FeatureMask(parts.labels[order], parts.names)
        )
        for fill in FILLS
    ]
    members, kind = rng.random((len(x), 5)) < rng.random((len(x), 1)), rng.integers(0, 4, len(x))
    images, shown = (
        x.clone(),
        torch.from_numpy(np.take_along_axis(members, parts.labels.flatten(1).numpy(), 1)).view(
            parts.labels.shape
        ),
    )
    for i, k in enumerate(kind):
        game, row = games[k % 2], torch.tensor([i])
        if k < 2:
            images[i] = masked_images(game, torch.from_numpy(members[i : i + 1]), row)[0]
        else:
            shown[i] = torch.from_numpy(visible(shown.shape[1:], rng))
            images[i] = torch.where(
                shown[i], x[i], (game.absent if game.absent_nested is None else game.absent_nested)[i]
            )
    shown = shown.numpy()
    return replace(
        cells,
        images=to_uint8(images),
        nucleus=cells.nucleus & shown,
        cell=cells.cell & shown,
        red=cells.red & shown,
    ), probability(cells, present, shown, family)


def probability(cells, present, shown, family: str):
    "The probability of 'with' of cells seen through bool masks `shown` (N, H, W): float (N,)."
    if not PLANTED[family]:
        return cells.labels.astype(float)
    places = [regions(cells)[part] for part in PLANTED[family]]
    seen = [p * (m & shown).sum((1, 2)) / np.maximum(m.sum((1, 2)), 1) for p, m in zip(present.T, places)]
    return seen[0] if len(seen) == 1 else seen[0] * (1 - seen[1]) + seen[1] * (1 - seen[0])


def training_set(family: str, n: int, hide: bool):
    "Phantoms of a family, twice more with something hidden, and their class probabilities (M, 2)."
    cells, flipped = phantom(n, SIZE, 100, family), phantom(n, SIZE, 100, family, flip=True)
    present = bits(cells, flipped, family)
    sets = [(cells, cells.labels.astype(float))] + [
        hidden_copies(cells, present, family, copy) for copy in range(2 * hide)
    ]
    joined = replace(
        cells,
        **{
            k: np.concatenate([getattr(c, k) for c, _ in sets])
            for k in ('images', 'labels', 'nucleus', 'cell', 'red')
        },
    )
    target = np.concatenate([t for _, t in sets])
    return joined, np.stack([1 - target, target], 1)


def network(family: str, seed: int, hide: bool = True, data=None, n: int = 1000, epochs: int = 7):
    """The network of a family and seed, trained if it is not there.

    `data`: a place to keep the training set for the next one.
    """
    folder = RUNS / f'{family}-{"hidden" if hide else "plain"}-{seed}'
    if (folder / 'config.json').exists():
        return BloodUNet.from_pretrained(folder)
    data = {} if data is None else data
    if (family, hide) not in data:
        data.clear()
        data[family, hide] = training_set(family, n, hide)
    cells, target = data[family, hide]
    torch.manual_seed(seed)
    model = BloodUNet(**architecture(seed), n_classes=2, input_size=SIZE, dropout=0.0)
    epochs = epochs * (1 + (family == 'xor')) * (1 if hide else 2)
    fit(
        model,
        cells,
        targets=target,
        settings=TrainingConfig(
            epochs=epochs,
            seed=seed,
            learning_rate=4e-3,
            strong=0.0,
            colour=0.0,
            turn=0.0,
            shift=0.03,
            scale=0.0,
            noise=0.0,
            ema_decay=0.98,
        ),
        progress=False,
    )
    save_checkpoint(model, folder, family=family, seed=seed, epochs=epochs, cells=n, hidden_parts=hide)
    return model.eval()


def swap_test(model, family: str, n: int = 100) -> dict:
    """Accuracy on new phantoms, and the share whose class is right with either label.

    The same cell but for the evidence.
    """
    test = [phantom(n, SIZE, 200, family, flip=flip) for flip in (False, True)]
    right = [predict(model, c.images).class_probability.argmax(1) == c.labels for c in test]
    return dict(accuracy=float(right[0].mean()), swapped=float((right[0] & right[1]).mean()))


def main(families: str = ','.join(PLANTED), seeds: str = '0,1,2,3,4', hide: bool = True, threads: int = 1):
    torch.set_num_threads(threads)
    data = {}
    for family in families.split(','):
        for seed in map(int, seeds.split(',')):
            model = network(family, seed, hide, data)
            print(family, seed, hide, swap_test(model, family), flush=True)


if __name__ == '__main__':
    typer.run(main)
