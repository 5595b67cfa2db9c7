"""Does anything separate explanations from untrained explainers on planted phantoms? One family, one network, two fills.

    python bench/planted.py --family texture_cytoplasm --size 32
"""
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import typer
from scipy import ndimage as ndi
from captum.attr import IntegratedGradients
from skimage.segmentation import slic
from torch import nn

from blood_unet.data import PLANTED, phantom
from blood_unet.heatmaps import ClassLogOdds, score
from blood_unet.local_surrogate import Players, all_coalitions, cell_parts, make_game, masked_images, paint, play
from blood_unet.model import BloodUNet, evaluating, predict, save_checkpoint
from blood_unet.preprocessing import to_tensor, to_uint8
from blood_unet.training import Training, fit

FILLS, STEPS = ('nested', 'background'), 10


def visible(shape, rng):
    "A random picture of what stays visible: bool (H, W), by pixels, patches or blobs, any share of it."
    side = shape[0]
    grain = rng.choice([1, 2, 4, 7])
    field = rng.standard_normal((-(-side//grain),)*2)
    field = np.kron(field, np.ones((grain, grain)))[:side, :side]
    if rng.random() < .4: field = ndi.gaussian_filter(rng.standard_normal(shape), rng.uniform(1, 4))
    return field > np.quantile(field, rng.random())


def hidden_copies(cells, family: str, seed: int):
    "Every cell again with parts or pixels hidden; the class is then the share of the evidence that can still be seen."
    rng, x = np.random.default_rng([seed, 7]), to_tensor(cells.images)
    order = torch.from_numpy(rng.permutation(len(x)))
    parts = cell_parts(cells.nucleus & cells.cell, cells.cell, cells.red & ~cells.cell)
    donors = dict(donors=x[order], donor_players=Players(parts.labels[order], parts.names))
    games = [make_game(x, parts, fill, **donors) for fill in FILLS]
    members, which = rng.random((len(x), 5)) < rng.random((len(x), 1)), rng.integers(0, 4, len(x))
    images, shown = x.clone(), torch.from_numpy(np.stack([m[l] for m, l in zip(members, parts.labels.numpy())]))
    for i, kind in enumerate(which):
        game, row = games[kind % 2], torch.tensor([i])
        if kind < 2: images[i] = masked_images(game, torch.from_numpy(members[i:i + 1]), row)[0]
        else:
            shown[i] = torch.from_numpy(visible(shown.shape[1:], rng))
            images[i] = torch.where(shown[i], x[i], (game.absent if game.hosted is None else game.hosted)[i])
    shown = shown.numpy()
    parts_of = dict(nucleus=cells.nucleus, cytoplasm=cells.cell & ~cells.nucleus, red=cells.red, background=~cells.cell & ~cells.red)
    share = lambda mask: (mask & shown).sum((1, 2))/np.maximum(mask.sum((1, 2)), 1)
    target = cells.labels.astype(float)
    if family == 'xor':
        raise NotImplementedError
    if PLANTED[family]: target = target*share(parts_of[PLANTED[family][0]])
    return replace(cells, images=to_uint8(images), nucleus=cells.nucleus & shown, cell=cells.cell & shown, red=cells.red & shown), target


def joined(a, b):
    "The cells of two sets as one."
    return replace(a, **{k: np.concatenate([getattr(a, k), getattr(b, k)]) for k in ('images', 'labels', 'nucleus', 'cell', 'red')})


def train(family: str, seed: int, size: int, epochs: int = 8, n: int = 1500, hide: bool = True):
    "A small network that learns the planted label, and the share of cells whose class follows the evidence when it is swapped."
    torch.manual_seed(seed)
    model = BloodUNet((12, 24, 48), 'both', n_classes=2, input_size=size, dropout=0.)
    folder = Path(__file__).parent.parent/'data'/'runs'/f'{family}-{size}-{seed}-{epochs}-{n}-{hide}'
    if folder.exists(): model = BloodUNet.from_pretrained(folder)
    else:
        cells = phantom(n, size, 100, family)
        all_cells, target = cells, cells.labels.astype(float)
        for copy in range(2*hide):
            more, t = hidden_copies(cells, family, copy)
            all_cells, target = joined(all_cells, more), np.r_[target, t]
        h = fit(model, all_cells, targets=np.c_[1 - target, target], settings=Training(epochs=epochs, seed=seed, strong=0., colour=0., turn=0., shift=.03, scale=0., noise=0., average=.98), progress=False)
        print(h.round(3).tail(2))
        save_checkpoint(model, folder)
    test, twin = phantom(400, size, 200, family), phantom(400, size, 200, family, flip=True)
    right = [predict(model, c.images).class_probability.argmax(1) == c.labels for c in (test, twin)]
    return model, float(np.mean(right[0])), float(np.mean(right[0] & right[1]))


def exact_shapley(values, n):
    "Shapley values (N, n) from the values of all coalitions (N, 2**n)."
    from math import factorial
    members, phi = all_coalitions(n), np.zeros((len(values), n))
    for i in range(n):
        without = np.flatnonzero(~members[:, i])
        size = members[without].sum(1)
        weight = np.array([factorial(s)*factorial(n - s - 1)/factorial(n) for s in size])
        phi[:, i] = ((values[:, without + 2**i] - values[:, without])*weight).sum(1)
    return phi


def len_map(game, model, target, players, samples=256, seed=0, width=.25):
    "Weighted least squares over superpixels, painted."
    n = len(players.names)
    coalitions = np.random.default_rng(seed).random((samples, n)) < .5
    coalitions[0] = True
    values = play(game._replace(players=players, host=None, hosted=None, absent=game.hosted if game.hosted is not None else game.absent), model, target, coalitions)
    weight = np.exp(-(1 - np.sqrt(coalitions.mean(1)))**2/width**2)
    design = np.c_[coalitions, np.ones(samples)]*np.sqrt(weight)[:, None]
    coefficients = np.linalg.lstsq(design, (values*np.sqrt(weight)).T, rcond=None)[0].T[:, :n]
    return paint(coefficients, players, spread=True)


def untrained(kind, logits, seed):
    "A random CNN of the published kind on the U-Net's output."
    torch.manual_seed(seed)
    widths = (1, 32, 64, 64, 128) if kind == 'LEN' else (1, 64, 64, 128)
    layers = [m for i, o in zip(widths, widths[1:]) for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
    with torch.no_grad(): return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))(logits[:, :1])[:, 0].double().numpy()


def curve(maps, x, absent, model, target, keep):
    "Mean value over the steps while the first pixels by the map are kept (insertion) or hidden (deletion)."
    n, h, w = maps.shape
    noise = np.random.default_rng(0).random(maps.shape)*1e-9*np.abs(maps).max()
    rank = torch.from_numpy((-(maps + noise)).reshape(n, -1).argsort(1).argsort(1)).view(n, 1, h, w)
    total = np.zeros(n)
    for step in range(1, STEPS):
        first = rank < h*w*step/STEPS
        total += score(model, target, torch.where(first if keep else ~first, x, absent))
    return total/(STEPS - 1)


def sensitivity(maps, shown, drop):
    "Correlation over random patch sets of the map's sum over hidden pixels with the drop of the value."
    hidden = ((~shown).reshape(*shown.shape[:2], -1)*maps.reshape(len(maps), 1, -1)).sum(2)
    centre = lambda a: a - a.mean(1, keepdims=True)
    a, b = centre(hidden), centre(drop)
    return (a*b).sum(1)/np.maximum(np.sqrt((a*a).sum(1)*(b*b).sum(1)), 1e-12)


def auroc(a, b):
    "Share of (explanation, control) pairs (K, N) and (C, N) that the metric puts in the right order, image by image, ties half."
    return float(((a[:, None] > b[None]) + .5*(a[:, None] == b[None])).mean())


def main(family: str = 'texture_cytoplasm', size: int = 32, n: int = 32, seed: int = 0, threads: int = 1, hide: bool = True):
    torch.set_num_threads(threads)
    model, accuracy, swapped = train(family, seed, size, hide=hide)
    print(f'{family}: accuracy {accuracy:.3f}, swap test {swapped:.3f}')
    cells, others = phantom(6*n, size, 300, family), phantom(6*n, size, 301, family)
    cells, others = cells.subset(np.flatnonzero(cells.labels == 1)[:n]), others.subset(np.flatnonzero(others.labels == 0)[:n])
    x, donors, target = to_tensor(cells.images), to_tensor(others.images), ClassLogOdds(torch.ones(n, dtype=torch.long))
    parts, donor_parts = (cell_parts(c.nucleus & c.cell, c.cell, c.red & ~c.cell) for c in (cells, others))
    games = {f: make_game(x, parts, f, donors=donors, donor_players=donor_parts) for f in FILLS}
    segments = np.stack([slic(i, 16, compactness=10, start_label=0) for i in cells.images])
    superpixels = Players(torch.from_numpy(segments).long(), tuple(map(str, range(segments.max() + 1))))
    with evaluating(model): logits = model(x).mask_logits
    phi = {f: exact_shapley(play(g, model, target, all_coalitions(5)), 5) for f, g in games.items()}
    gradient = IntegratedGradients(lambda z: target(model(z), torch.arange(len(z)) % n)).attribute(x, torch.ones_like(x)*.85, n_steps=32, internal_batch_size=256).sum(1).detach().double().numpy()
    explained = {'integrated gradients': gradient, 'LEN': len_map(games['nested'], model, target, superpixels), 'exact parts': paint(phi['nested'], parts, spread=True)}
    controls = {f'{kind} {s} {sign:+d}': sign*untrained(kind, logits, s) for kind in ('LEN', 'Shape') for s in range(5) for sign in (1, -1)}
    controls |= {'probability': logits[:, 0].sigmoid().double().numpy(), 'darkness': -x[:, 1].double().numpy(), 'random': np.random.default_rng(seed).standard_normal(gradient.shape)}
    rng, rows = np.random.default_rng(seed), {}
    patches = np.repeat(np.repeat(rng.random((len(x), 64, -(-size//4), -(-size//4))) < .7, 4, 2), 4, 3)[:, :, :size, :size]
    for f, g in games.items():
        absent = g.absent if g.hosted is None else g.hosted
        full, empty = score(model, target, x), score(model, target, absent)
        drop = np.stack([full - score(model, target, torch.where(torch.from_numpy(patches[:, k])[:, None], x, absent)) for k in range(64)], 1)
        print(f'{f}: value whole {full.mean():.2f}, empty {empty.mean():.2f}; exact Shapley by part {np.round(phi[f].mean(0), 2)}')
        for name, maps in (explained | controls).items():
            sums = np.stack([np.where(parts.labels.numpy() == i, maps, 0).sum((1, 2)) for i in range(5)], 1)
            cosine = (sums*phi[f]).sum(1)/np.maximum(np.linalg.norm(sums, axis=1)*np.linalg.norm(phi[f], axis=1), 1e-12)
            rows[f, name] = dict(deletion=full - curve(maps, x, absent, model, target, False), insertion=curve(maps, x, absent, model, target, True) - empty,
                                 sensitivity=sensitivity(maps, patches, drop), shapley=cosine, right_part=np.array([['nucleus', 'nucleus', 'cytoplasm', 'red', 'background'][k] in cells.part for k in sums.argmax(1)]))
    for f in FILLS:
        for metric in ('deletion', 'insertion', 'sensitivity', 'shapley'):
            value = lambda names: np.stack([rows[f, k][metric] for k in names])
            plain = [k for k in controls if k.split()[0] not in ('LEN', 'Shape')]
            print(f, metric, {k: round(auroc(value([k]), value([c for c in controls if c not in plain])), 3) for k in explained} | {'against ' + k: round(auroc(value(explained), value([k])), 3) for k in plain})
    print('right part', {k: round(float(rows['nested', k]['right_part'].mean()), 2) for k in explained | controls})


if __name__ == '__main__':
    typer.run(main)
