"""Evidence for the ledger of claims: what pictures and rules show of the network; minutes on one core.

python bench/claims_shown.py shown     results/shown_alone.json: the best quarter of a picture shown alone
python bench/claims_shown.py rules     results/short_rules.json: one tree of depth 3 beside the network
python bench/claims_shown.py trees     results/trees_doubt.json: do trees on measurements tell wrong classes
python bench/claims_shown.py linear    results/line_and_map.json: LEN beside a map that knows no reason
python bench/claims_shown.py pairs     results/cell_pairs.json: two cells in a window, one in the middle

What each measures was written into nbs/claims.yaml before this was run.
"""

from itertools import combinations

import numpy as np
import torch
import typer

from claims_kept import keep, load
from blood_unet.auxiliary import fit_auxiliary, measurements
from blood_unet.coalitions import coalition_values, superpixel_game
from blood_unet.controls import CONTROLS
from blood_unet.data import load_cells
from blood_unet.faithfulness import part_sums
from blood_unet.heatmaps import HEAT_MAPS
from blood_unet.images import to_tensor
from blood_unet.local_surrogate import draw_coalitions, kernel_weights, local_surrogate
from blood_unet.metrics import auroc_interval, interval
from blood_unet.predict import predict
from blood_unet.preprocessing import make_masks
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def shown(n: int = 100, seed: int = 0):
    "Probability of the named class with the best quarter of a picture alone, by LEN, beside other quarters."
    network, about = load()
    images = load_cells('bloodmnist', 'test', 28).images
    images = images[np.linspace(0, len(images) - 1, n).astype(int)]
    named = predict(network, images, device='cpu').class_probability.argmax(1)
    game, target = superpixel_game(to_tensor(images)), ClassLogOdds(named)
    line = local_surrogate(game, network, target, 256, seed).coefficients
    threes = np.array(list(combinations(range(12), 3)))
    coalitions = np.zeros((len(threes), 12), bool)
    coalitions[np.arange(len(threes))[:, None], threes] = True
    chance = 1 / (1 + np.exp(-coalition_values(game, network, target, coalitions)))
    place = {tuple(three): i for i, three in enumerate(threes.tolist())}
    labels, grey = game.players.labels.numpy(), images.mean(3)
    dark = np.array([[g[own == k].mean() for k in range(12)] for g, own in zip(grey, labels)])

    def of(scores):
        best = np.sort(np.argsort(-scores, axis=1)[:, :3], axis=1).tolist()
        return np.array([row[place[tuple(three)]] for row, three in zip(chance, best)])

    rng = np.random.default_rng(seed)
    random = np.stack([row[rng.permutation(len(threes))[:20]].mean() for row in chance])
    found = dict(best=interval(of(line)), dark=interval(of(-dark)), random=interval(random))
    found |= dict(minus_random=interval(of(line) - random), minus_dark=interval(of(line) - of(-dark)))
    keep('shown_alone', about | found, seed)


@app.command()
def rules(n: int = 2000, seed: int = 0):
    "Agreement of one tree of depth 3 on measurements with the network, and with shuffled labels."
    from sklearn.tree import DecisionTreeClassifier, export_text

    network, about = load()
    tables, names = [], []
    for split in ('train', 'test'):
        cells = load_cells('bloodmnist', split, 28, limit=n)
        seen = predict(network, cells.images, device='cpu')
        tables.append(measurements(cells.images, seen.nucleus, seen.cell))
        names.append(seen.class_probability.argmax(1))
    rng = np.random.default_rng(seed)

    def fitted(taught):
        return DecisionTreeClassifier(max_depth=3, random_state=seed).fit(tables[0], taught)

    tree, blind = fitted(names[0]), [fitted(rng.permutation(names[0])) for _ in range(20)]
    shuffled = np.mean([one.predict(tables[1]) == names[1] for one in blind], 0)
    found = dict(tree=interval(tree.predict(tables[1]) == names[1]), shuffled=interval(shuffled))
    text = export_text(tree, feature_names=list(tables[0]), class_names=list(cells.classes))
    found['rules'] = text.splitlines()
    keep('short_rules', about | found, seed)


def foretold(values, scores, coalitions):
    "Share of the weighted variance of values (n, S) that sums of scores (n, 12) tell, scaled best: (n,)."
    share = kernel_weights(coalitions.sum(1), coalitions.shape[1])
    share = share / share.sum()
    a, b = (v - (v @ share)[:, None] for v in (values, scores @ coalitions.T.astype(float)))
    return (a * b @ share) ** 2 / np.maximum((a * a @ share) * (b * b @ share), 1e-300)


@app.command()
def linear(n: int = 100, samples: int = 256, seed: int = 0):
    "What LEN tells of fresh coalitions, beside the sums of the probability map, of mask and class."
    network, about = load()
    images = load_cells('bloodmnist', 'test', 28).images
    images = images[np.linspace(0, len(images) - 1, n).astype(int)]
    x = to_tensor(images)
    mask = frozen_mask(network, x)
    has = mask.flatten(1).any(1)
    images, x, mask = images[has.numpy()], x[has], mask[has]
    named = predict(network, images, device='cpu').class_probability.argmax(1)
    game, found = superpixel_game(x), {}
    fresh = draw_coalitions(12, 2 * samples, np.random.default_rng(seed))[samples:]
    for name, target in dict(mask=HardDice(mask), predicted_class=ClassLogOdds(named)).items():
        line = local_surrogate(game, network, target, samples, seed, fresh=0).coefficients
        sums = part_sums(CONTROLS['probability map'](network, target, x, seed), game.players)
        values = coalition_values(game, network, target, fresh)
        told = [foretold(values, scores, fresh) for scores in (line, sums)]
        found[name] = dict(
            line=interval(told[0]), map=interval(told[1]), minus_map=interval(told[0] - told[1])
        )
    keep('line_and_map', about | dict(samples=samples, targets=found), seed)


@app.command()
def trees(n: int = 2000, seed: int = 0):
    "Does the doubt of trees on measurements tell cells that the network names wrongly, as softmax does?"
    network, about = load()
    cells = load_cells('bloodmnist', 'train', 28, limit=n)
    seen = predict(network, cells.images, device='cpu')
    model = fit_auxiliary(measurements(cells.images, seen.nucleus, seen.cell), cells.labels, seed)
    cells = load_cells('bloodmnist', 'test', 28)
    seen = predict(network, cells.images, device='cpu')
    named, sure = seen.class_probability.argmax(1), seen.class_probability.max(1)
    rows = np.flatnonzero((np.arange(len(cells)) % 8 == 0) | (named != cells.labels))
    asked = measurements(cells.images[rows], seen.nucleus[rows], seen.cell[rows])
    doubt = 1 - model.predict_proba(asked.astype(float))[np.arange(len(rows)), named[rows]]
    wrong, sure = (named != cells.labels)[rows], sure[rows]
    found = dict(trees=auroc_interval(wrong, doubt), softmax=auroc_interval(wrong, -sure))
    found |= dict(minus_softmax=auroc_interval(wrong, doubt, -sure))
    keep('trees_doubt', about | found, seed)


MAPS = {
    'Grad-CAM': 'gradcam',
    'integrated gradients': 'ig',
    'saliency': 'saliency',
    'spatial attention': 'attention',
    'channel attention': 'channel-attention',
}


def window(middle, side, wide: int = 160):
    """A picture with another's cell beside it, none of them scaled, or None where there is no room.

    Each is an image (64, 64, 3) and its cell's mask. Returns the window and the masks of both cells.
    """
    (image, cell), (other, guest) = middle, side
    left = (wide - image.shape[1]) // 2
    ground = np.median(image[~cell], 0).astype(np.uint8)
    picture = np.tile(ground, (image.shape[0], wide, 1))
    picture[:, left : left + image.shape[1]] = image
    masks = np.zeros((2, *picture.shape[:2]), bool)
    masks[0, :, left : left + image.shape[1]] = cell
    start = left + np.flatnonzero(cell.any(0))[0] - 4 - np.flatnonzero(guest.any(0))[-1]
    if start + np.flatnonzero(guest.any(0))[0] < 0:
        return None
    places = np.argwhere(guest)
    picture[places[:, 0], places[:, 1] + start] = other[places[:, 0], places[:, 1]]
    masks[1, places[:, 0], places[:, 1] + start] = True
    return picture, masks


def share_in_the_middle(network, name, windows) -> np.ndarray:
    "The share, of the heat on both cells of each window, of that on the one in the middle: (N,)."
    images, masks = (np.stack(one) for one in zip(*windows))
    x = to_tensor(images)
    with torch.no_grad():
        named = network(x).class_logits.argmax(1).numpy()
    heat = np.maximum(HEAT_MAPS[MAPS[name]](network, ClassLogOdds(named), x), 0)[:, None]
    middle, side = (heat * masks).sum((2, 3)).T
    return np.where(middle + side > 0, middle / np.maximum(middle + side, 1e-12), 0.5)


@app.command()
def pairs(n: int = 100, seed: int = 0):
    "Two cells of different classes in one window: how much of the heat is on the one in the middle."
    network, about = load('blood-unet-64')
    cells, rng = load_cells('bloodmnist', 'test', 64), np.random.default_rng(seed)
    both = []
    while len(both) < n:
        i, j = rng.integers(len(cells), size=2)
        one, other = ((cells.images[k], make_masks(cells.images[k : k + 1], 'cell')[0]) for k in (i, j))
        if cells.labels[i] != cells.labels[j] and one[1].any() and other[1].any():
            made = window(one, other), window(other, one)
            both += [made] if None not in made else []
    found = {}
    for name in MAPS:
        shares = [share_in_the_middle(network, name, order) for order in zip(*both)]
        found[name] = interval(np.mean(shares, 0)) | dict(orders=[round(float(s.mean()), 5) for s in shares])
        print(name, found[name], flush=True)
    keep('cell_pairs', about | dict(maps=found), seed)


if __name__ == '__main__':
    app()
