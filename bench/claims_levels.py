"""Evidence for the ledger of claims: what linear probes read out of each level of the network.

python bench/claims_levels.py     # results/probes.json; a quarter of an hour on one core

Beside the trained network stand untrained twins, whose norms are set on the same cells, and raw pixels.
What is measured was written into nbs/claims.yaml before this was run.
"""

import numpy as np
import torch
import typer
from scipy.stats import spearmanr
from skimage.color import rgb2gray
from skimage.filters import sobel

from claims_kept import keep, load
from blood_unet.auxiliary import fit_probe
from blood_unet.data import load_cells
from blood_unet.feature_maps import activations, local_deviation
from blood_unet.heatmaps import to_image
from blood_unet.images import to_tensor
from blood_unet.metrics import interval
from blood_unet.model import BloodUNet
from blood_unet.preprocessing import make_masks

PIXELS = 256  # of each cell that the probes see
KINDS = dict(grey=[0], edges=[1], texture=[2], shape=[3, 4])  # columns of `patterns`
THIRDS = 'fit', 'choose', 'report'


def patterns(images):
    "What is asked of a pixel: grey, Sobel, local deviation, nucleus and cell: (N, H, W, 5)."
    grey = [rgb2gray(image) for image in images]
    looks = [[g, sobel(g), local_deviation(g, 5)] for g in grey]
    masks = [make_masks(images, name).astype(float) for name in ('nucleus', 'cell')]
    return np.concatenate([np.array(looks), np.stack(masks, 1)], 1).transpose(0, 2, 3, 1)


def surroundings(images):
    "The colours of the 5 by 5 pixels around each: (N, H, W, 75), float32 in [0, 1]."
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='edge') / np.float32(255)
    around = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (1, 2))
    return around.reshape(*images.shape[:3], 75)


def seen_at(network, images, places) -> dict:
    "The maps of each level at some pixels (N, P): name to (N, P, C)."
    kept = {}
    for batch, chosen in zip(np.split(images, 10), np.split(places, 10)):
        with activations(network) as maps:
            network(to_tensor(batch))
        for name, level in maps.items():
            flat = to_image(level, network, batch.shape[1:3]).flatten(2).transpose(1, 2).numpy()
            kept.setdefault(name, []).append(np.take_along_axis(flat, chosen[:, :, None], 1))
    return {name: np.concatenate(v) for name, v in kept.items()}


def twin(network, images, seed: int):
    "The same network with weights as they are drawn, its norms set on the given cells."
    torch.manual_seed(seed)
    made = BloodUNet(**network.config).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    with torch.no_grad():
        made(to_tensor(images))
    return made.eval()


def errors_of(features, wanted, rows) -> dict:
    "Sums of squared errors and deviations of each cell: third and kind to (2, cells)."
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def flat(a, third):
        return a[rows == third].reshape(-1, a.shape[-1])

    probe = make_pipeline(StandardScaler(), RidgeCV([1.0, 10.0, 100.0, 1000.0]))
    probe.fit(flat(features, 0), flat(wanted, 0))
    found = {}
    for third in (1, 2):
        truth, count = flat(wanted, third), int((rows == third).sum())
        off = (probe.predict(flat(features, third)) - truth) ** 2
        whole = (truth - truth.mean(0)) ** 2
        for kind, columns in KINDS.items():
            sums = [a[:, columns].sum(1).reshape(count, -1).sum(1) for a in (off, whole)]
            found[THIRDS[third], kind] = np.stack(sums)
    return found


def r2(sums):
    "Of sums (..., 2, cells), of which some cells may have been drawn: 1 minus their ratio."
    return 1 - sums[..., 0, :].sum(-1) / sums[..., 1, :].sum(-1)


def of_draws(statistic, cells: int, seed: int = 0, draws: int = 1000) -> dict:
    "A statistic of row numbers with its 95 % bootstrap interval over cells."
    picks = np.random.default_rng(seed).integers(cells, size=(draws, cells))
    low, high = np.quantile([statistic(pick) for pick in picks], [0.025, 0.975])
    told = dict(mean=statistic(np.arange(cells)), low=low, high=high)
    return {k: round(float(v), 5) for k, v in told.items()} | dict(n=cells)


def read_out(sums, raw) -> dict:
    "For each kind: the level chosen, R2 there, that of the twins, of raw pixels, and minus the twins'."
    found = {}
    for kind in KINDS:
        own, others = sums[0], sums[1:]
        chosen = max(own, key=lambda level: r2(own[level]['choose', kind]))
        mine = own[chosen]['report', kind]
        twins = np.stack([one[chosen]['report', kind] for one in others])
        n = mine.shape[1]
        row = dict(level=chosen, r2=of_draws(lambda i: r2(mine[:, i]), n))
        row['twins'] = of_draws(lambda i: r2(twins[:, :, i]).mean(), n)
        row['minus_twins'] = of_draws(lambda i: r2(mine[:, i]) - r2(twins[:, :, i]).mean(), n)
        row['pixels'] = of_draws(lambda i: r2(raw['report', kind][:, i]), n)
        names = list(own)
        row['levels'] = {k: round(float(r2(own[k]['report', kind])), 4) for k in names}
        row['levels_of_twins'] = {
            k: round(float(np.mean([r2(one[k]['report', kind]) for one in others])), 4) for k in names
        }
        found[kind] = row
    return found


def named_by(network, train, test) -> dict:
    "Whether a probe of the means of each level names the class of each test cell: name to bool (cells,)."

    def means(images):
        kept = {}
        for batch in np.split(images, 10):
            with activations(network) as maps:
                network(to_tensor(batch))
            for name, level in maps.items():
                kept.setdefault(name, []).append(level.mean((2, 3)).numpy())
        return {name: np.concatenate(v) for name, v in kept.items() if not name.startswith('decoder')}

    known, asked = means(train.images), means(test.images)
    return {k: fit_probe(known[k], train.labels).predict(asked[k]) == test.labels for k in known}


def with_depth(sums, hits) -> dict:
    "Rank correlation of depth with R2 of grey values, and with the accuracy of the class."
    down = list(hits)
    grey = np.stack([sums[k]['report', 'grey'] for k in down])
    right = np.stack([hits[k] for k in down]).astype(float)
    depth = np.arange(len(down))

    def rank(values):
        return spearmanr(depth, values).statistic

    found = dict(grey=of_draws(lambda i: rank(r2(grey[:, :, i])), grey.shape[2]))
    found['class'] = of_draws(lambda i: rank(right[:, i].mean(1)), right.shape[1])
    return found | dict(accuracy={k: interval(hits[k]) for k in down})


def some(split: str, n: int):
    cells = load_cells('bloodmnist', split, 64)
    return cells.subset(np.linspace(0, len(cells) - 1, n).astype(int))


def main(twins: int = 3, seed: int = 0):
    network, about = load('blood-unet-64')
    cells, train, test = some('test', 300), some('train', 400), some('test', 400)
    rows, rng = np.arange(300) % 3, np.random.default_rng(seed)
    places = np.stack([rng.permutation(64 * 64)[:PIXELS] for _ in range(300)])

    def at(pictures):
        return np.take_along_axis(pictures.reshape(300, 64 * 64, -1), places[:, :, None], 1)

    wanted = at(patterns(cells.images))
    raw = errors_of(at(surroundings(cells.images)), wanted, rows)
    sums, depths = [], []
    for one in [network] + [twin(network, cells.images[rows == 0], seed + k) for k in range(twins)]:
        seen = seen_at(one, cells.images, places)
        sums.append({name: errors_of(maps, wanted, rows) for name, maps in seen.items()})
        depths.append(with_depth(sums[-1], named_by(one, train, test)))
        print({k: v for k, v in depths[-1].items() if k != 'accuracy'}, flush=True)
    found = dict(pixels_a_cell=PIXELS, twins=twins, kinds=read_out(sums, raw))
    keep('probes', about | found | dict(depth=depths[0], depth_of_twins=depths[1:]), seed)


if __name__ == '__main__':
    typer.run(main)
