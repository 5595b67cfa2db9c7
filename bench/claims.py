"""Evidence for the ledger of claims that needs no training, each in minutes on one core.

python bench/claims.py sizes     results/recipe_sizes.json: the published masks at four sizes, and blind ones
python bench/claims.py gate      results/gate_mean.json: the channel gate replaced by its mean
python bench/claims.py parts     results/parts_by_cell.json: values of a cell beside its class'; errors
python bench/claims.py pruning   results/pruning.json: all channels that look idle silenced together
python bench/claims.py shown     results/shown_alone.json: the best quarter of a picture shown alone
python bench/claims.py rules     results/short_rules.json: one tree of depth 3 beside the network
python bench/claims.py fine      results/fine_structures.json: Dice beside others when a rim or a gap is cut
python bench/claims.py pairs     results/cell_pairs.json: two cells in a window, one in the middle
python bench/claims.py levels    results/levels_silenced.json: whole levels silenced
python bench/claims.py noise     results/noise.json: error of the class under noise and corruptions

What each measures was written into nbs/claims.yaml before this was run.
"""

from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image
from scipy import ndimage as ndi
from scipy.stats import spearmanr

from blood_unet.auxiliary import measurements
from blood_unet.coalitions import all_coalitions, coalition_values, make_game, recipe_parts, superpixel_game
from blood_unet.core import sha256_file, versions
from blood_unet.data import load_cells
from blood_unet.experts import load_expert
from blood_unet.feature_maps import activations, check_layers, silenced
from blood_unet.files import write_json
from blood_unet.heatmaps import HEAT_MAPS, pick_gate
from blood_unet.images import resample, target_shape, to_tensor, to_uint8
from blood_unet.local_surrogate import explained, fit_line, kernel_weights, local_surrogate
from blood_unet.metrics import auroc_interval, cosine, crossed_interval, dice, interval
from blood_unet.model import BloodUNet, ChannelAttention, checkpoint_folder
from blood_unet.predict import predict
from blood_unet.preprocessing import described, make_masks, published, published_upright
from blood_unet.shapley import shapley_from_table
from blood_unet.shift import CORRUPTIONS, balanced_sample, corrupt
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask, score

RESULTS = Path(__file__).parent / 'results'
SETS = ('jiangxi', 'cellavision', 'all_idb2')
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def load(name: str = 'blood-unet-28'):
    "A bundled network, and what a result says of it."
    torch.set_num_threads(1)
    digest = sha256_file(checkpoint_folder(name) / 'model.safetensors')
    return BloodUNet.from_pretrained(name).eval(), dict(checkpoint=name, sha256=digest)


def keep(name: str, found: dict, seed: int = 0):
    "Write and show a result."
    write_json(found | dict(seed=seed, versions=versions()), RESULTS / f'{name}.json')
    print({k: v for k, v in found.items() if not isinstance(v, list)})


def ratio_interval(above, below, seed: int = 0, draws: int = 2000) -> dict:
    "1 minus a ratio of sums over cells (N,) each, with a 95 % bootstrap interval over cells."
    picks = np.random.default_rng(seed).integers(len(above), size=(draws, len(above)))
    low, high = np.quantile(1 - above[picks].sum(1) / below[picks].sum(1), [0.025, 0.975])
    told = dict(mean=1 - above.sum() / below.sum(), low=low, high=high)
    return {k: round(float(v), 5) for k, v in told.items()} | dict(n=len(above))


# masks without learning


def recipe_at(image, recipe, side):
    "A recipe's mask of a picture that is shrunk to `side` px first (None: as it is), at the picture's size."
    if side is None:
        return recipe(image)
    small = to_uint8(resample(to_tensor(image[None]), target_shape(image.shape[:2], side)))[0]
    mask = Image.fromarray(recipe(small)).resize(image.shape[1::-1], Image.Resampling.NEAREST)
    return np.asarray(mask, bool)


def centred_disk(shape, share: float):
    "A disk in the middle whose radius is a share of the shorter side."
    rows, columns = np.indices(shape)
    return np.hypot(rows - (shape[0] - 1) / 2, columns - (shape[1] - 1) / 2) <= share * min(shape)


@app.command()
def sizes():
    "Nucleus Dice of the published recipe at 28, 64, 128 px and as given, beside masks that see no pixel."
    rows, best, blind = [], {}, {}
    for name in SETS:
        cells = load_expert(name)
        for recipe in (published_upright, published, described):
            for side in (28, 64, 128, None):
                made = [dice(recipe_at(i, recipe, side), m) for i, m in zip(cells.images, cells.nucleus)]
                rows.append(dict(set=name, recipe=recipe.__name__, side=side or 'given', **interval(made)))
        filled = [r for r in rows if (r['set'], r['recipe']) == (name, 'described') and r['side'] != 'given']
        best[name] = max(filled, key=lambda row: row['mean'])
        disks = [
            np.array([dice(centred_disk(m.shape, share), m) for m in cells.nucleus])
            for share in np.arange(1, 11) / 20
        ]
        whole = [dice(np.ones_like(m), m) for m in cells.nucleus]
        disk = max(disks, key=np.mean)
        blind[name] = dict(disk=interval(disk), everything=interval(whole))
    keep('recipe_sizes', dict(rows=rows, best=best, blind=blind))


def surface(mask):
    "The outline of a bool mask (H, W): its own pixels that touch another."
    return mask & ~ndi.binary_erosion(mask, border_value=1)


def surface_dice(a, b, tolerance: float) -> float:
    "Share of the pixels of both outlines that lie within a tolerance of the other (Nikolov et al. 2018)."
    lines = surface(a), surface(b)
    near = [ndi.distance_transform_edt(~other)[own] <= tolerance for own, other in (lines, lines[::-1])]
    return float(np.concatenate(near).mean())


def cut(mask, width: float):
    "A mask without a gap through its middle, across its long axis."
    places = np.argwhere(mask)
    centre = places.mean(0)
    axis = np.linalg.eigh(np.cov((places - centre).T))[1][:, -1]
    along = (np.stack(np.indices(mask.shape), -1) - centre) @ axis
    return mask & (np.abs(along) > width / 2)


@app.command()
def fine():
    "How far Dice, the accuracy of pixels and surface Dice fall when a rim or a gap of 1 % is taken away."
    falls = []
    for name in SETS:
        for mask in load_expert(name).nucleus:
            width = max(1.0, 0.01 * mask.shape[1])
            changed = dict(rim=ndi.distance_transform_edt(mask) > width, gap=cut(mask, width))
            for what, other in changed.items():
                row = dict(set=name, what=what, dice=1 - float(dice(other, mask)))
                row |= dict(pixels=float((other != mask).mean()))
                falls.append(row | dict(surface=1 - surface_dice(other, mask, width / 2)))
    found = {}
    for what in ('rim', 'gap'):
        dices, pixels, outline = (
            np.array([r[k] for r in falls if r['what'] == what]) for k in ('dice', 'pixels', 'surface')
        )
        found[what] = dict(dice=interval(dices), pixels=interval(pixels), surface=interval(outline))
        found[what] |= dict(minus_pixels=interval(dices - pixels), minus_surface=interval(dices - outline))
    keep('fine_structures', found)


# the network changed


@contextmanager
def output_of(module, change):
    "Inside the block a module gives what `change` makes of its output."
    hook = module.register_forward_hook(lambda m, inputs, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def beside_its_mean(network, part, images) -> dict:
    "What changes of the network's answers when a gate gives its mean over the cells: renamed, and masks."
    kept = []
    with output_of(part, lambda output: kept.append(output)):
        before = predict(network, images, device='cpu')
    mean = torch.cat(kept).mean(0, keepdim=True)
    with output_of(part, lambda output: mean.expand_as(output)):
        after = predict(network, images, device='cpu')
    named = [found.class_probability.argmax(1) for found in (before, after)]
    changed = 1 - dice(before.nucleus, after.nucleus)
    return dict(renamed=interval(named[0] != named[1]), mask=interval(changed))


@app.command()
def gate():
    "The channel gate, the spatial one and an untrained channel gate, each replaced by its mean."
    found = {}
    for name, size in (('blood-unet-28', 28), ('blood-unet-64', 64)):
        network, about = load(name)
        cells = load_cells('bloodmnist', 'test', size)
        module = pick_gate(network, 'channel')
        row = about | dict(n=len(cells), channel=beside_its_mean(network, module.channel, cells.images))
        row['spatial'] = beside_its_mean(network, module.spatial, cells.images)
        torch.manual_seed(0)
        module.channel = ChannelAttention(module.channel.mlp[0].in_features).eval()
        found[name] = row | dict(untrained=beside_its_mean(network, module.channel, cells.images))
    keep('gate_mean', dict(networks=found))


@contextmanager
def without(network, channels: dict):
    "Inside the block the given channels of levels, bool (C,) each, are silenced."
    with ExitStack() as stack:
        for level, gone in channels.items():
            stack.enter_context(silenced(check_layers(network)[level], torch.from_numpy(~gone)[None].float()))
        yield


def contrast(network, x) -> dict:
    "Standard deviation over pixels of each channel of each level, mean over images: name to (C,)."
    with activations(network) as maps:
        network(x)
        return {name: m.flatten(2).std(2).mean(0).numpy() for name, m in maps.items()}


def random_like(gone: dict, rng) -> dict:
    "As many channels of each level, drawn."
    return {name: rng.permutation(mask) for name, mask in gone.items()}


@app.command()
def pruning(draws: int = 20, seed: int = 0):
    "Dice with the whole network that is left without the channels of least contrast, beside random ones."
    network, about = load()
    looks = contrast(network, to_tensor(load_cells('bloodmnist', 'val', 28).images[::8]))
    x = to_tensor(load_cells('bloodmnist', 'test', 28).images[::8])
    mask, rng, found = frozen_mask(network, x), np.random.default_rng(seed), {}
    x, mask = x[has := mask.flatten(1).any(1)], mask[has]
    for share in (0.25, 0.5):
        gone = {name: np.argsort(np.argsort(v)) < int(share * len(v)) for name, v in looks.items()}
        with without(network, gone):
            idle = score(network, HardDice(mask), x)
        others = []
        for _ in range(draws):
            with without(network, random_like(gone, rng)):
                others.append(score(network, HardDice(mask), x))
        row = dict(idle=interval(idle), random=crossed_interval(others))
        found[str(share)] = row | dict(minus_random=crossed_interval(idle - np.stack(others)))
    keep('pruning', about | dict(draws=draws, shares=found), seed)


@app.command()
def levels(draws: int = 3, seed: int = 0):
    "Nucleus Dice with experts that is lost without a level, and without as many channels of all levels."
    network, about = load('blood-unet-64')
    sets = [load_expert(name, 'report') for name in SETS]
    images, truth = ([m for cells in sets for m in getattr(cells, k)] for k in ('images', 'nucleus'))
    width = {name: len(v) for name, v in contrast(network, to_tensor(images[0][None])).items()}
    names, rng = np.repeat(list(width), list(width.values())), np.random.default_rng(seed)

    def reached(gone):
        with without(network, gone):
            found = predict(network, images, device='cpu').nucleus
        return np.array([dice(*pair) for pair in zip(found, truth)])

    whole, found = reached({}), {}
    for level, n in width.items():
        lost = whole - reached({level: np.ones(n, bool)})
        drawn = [rng.permutation(len(names)) < n for _ in range(draws)]
        others = [whole - reached({k: gone[names == k] for k in width}) for gone in drawn]
        row = dict(channels=n, lost=interval(lost), as_many=crossed_interval(others))
        found[level] = row | dict(minus_as_many=crossed_interval(lost - np.stack(others)))
        print(level, found[level], flush=True)
    keep('levels_silenced', about | dict(draws=draws, whole=interval(whole), levels=found), seed)


# explanations


def values_of_parts(network, images, target) -> dict:
    "Shapley values (N, 5), coefficients of LEN (N, 5) and its R2 (N,), all of every coalition of parts."
    game, every = make_game(to_tensor(images), recipe_parts(images)), np.asarray(all_coalitions(5))
    table, weights = coalition_values(game, network, target, every), kernel_weights(every.sum(1), 5)
    line, intercept = fit_line(every.astype(float), table, weights)
    r2 = np.nan_to_num(explained(line, intercept, every, table, weights))
    return dict(shap=shapley_from_table(table), len=line, r2=r2)


def others_of_class(values, named):
    "For each cell the mean values (N, 5) of the others of its class."
    sums = np.stack([values[named == k].sum(0) for k in range(8)])
    return (sums[named] - values) / (np.bincount(named, minlength=8)[named] - 1)[:, None]


def alone_and_together(values, named, seed: int = 0) -> dict:
    "How far the mean of a class tells a cell: R2, its first part, its cosine; and R2 with parts permuted."
    rest, rng = others_of_class(values, named), np.random.default_rng(seed)
    spread = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    r2 = ratio_interval(((values - rest) ** 2).sum(1), spread)
    permuted = ratio_interval(((values - rng.permuted(rest, axis=1)) ** 2).sum(1), spread)
    return dict(r2=r2, permuted=permuted, first=interval(values.argmax(1) == rest.argmax(1)))


def rank_agreement(a, b, named, seed: int = 0, draws: int = 500) -> dict:
    """Rank correlation of the means of two sets of values over five parts, mean of the classes.

    With a 95 % interval (cells are drawn within a class), and that of one half of `b` with the other.
    """
    rng, rows = np.random.default_rng(seed), [np.flatnonzero(named == k) for k in np.unique(named)]

    def agreement(first, second, rows, others):
        means = [(first[r].mean(0), second[o].mean(0)) for r, o in zip(rows, others)]
        return float(np.mean([spearmanr(*pair).statistic for pair in means]))

    drawn = [rng.choice(r, len(r)) for _ in range(draws) for r in rows]
    picks = [drawn[i : i + len(rows)] for i in range(0, len(drawn), len(rows))]
    low, high = np.quantile([agreement(a, b, pick, pick) for pick in picks], [0.025, 0.975])
    told = dict(mean=agreement(a, b, rows, rows), low=low, high=high)
    told['halves'] = agreement(b, b, [r[::2] for r in rows], [r[1::2] for r in rows])
    return {k: round(float(v), 5) for k, v in told.items()} | dict(n=len(named), classes=len(rows))


def features_of(values, named, usual):
    "Cosine with the usual values of the class, share of what speaks against it, evenness: (N, 3)."
    size = np.abs(values) / np.abs(values).sum(1, keepdims=True)
    even = -(size * np.log(np.maximum(size, 1e-12))).sum(1) / np.log(values.shape[1])
    return np.stack([cosine(values, usual[named]), (size * (values < 0)).sum(1), even], 1)


def class_values(network, split: str) -> tuple:
    "Of every eighth cell and all wrong ones: images, values, class named, right, softmax, which are eighths."
    cells = load_cells('bloodmnist', split, 28)
    found = predict(network, cells.images, device='cpu').class_probability
    named, eighth = found.argmax(1), np.arange(len(cells)) % 8 == 0
    chosen = np.flatnonzero(eighth | (named != cells.labels))
    values = values_of_parts(network, cells.images[chosen], ClassLogOdds(named[chosen]))
    right = (named == cells.labels)[chosen]
    return cells.images[chosen], values, named[chosen], right, found.max(1)[chosen], eighth[chosen]


def told_by_maps(known, known_named, known_right, values, named, right, sure) -> dict:
    "AUROC for wrong cells of three features, fitted on other cells, and of softmax; for right ones of R2."
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    usual = np.stack([known['shap'][(known_named == k) & known_right].mean(0) for k in range(8)])
    judge = make_pipeline(StandardScaler(), LogisticRegression(class_weight='balanced'))
    judge.fit(features_of(known['shap'], known_named, usual), ~known_right)
    wrong = judge.predict_proba(features_of(values['shap'], named, usual))[:, 1]
    found = dict(features=auroc_interval(~right, wrong), softmax=auroc_interval(~right, -sure))
    found |= dict(features_minus_softmax=auroc_interval(~right, wrong, -sure))
    return found | dict(r2=auroc_interval(right, values['r2']))


@app.command()
def parts(seed: int = 0):
    "Whether a cell's values are those of its class, are alike for mask and class, and tell wrong cells."
    network, about = load()
    _, known, known_named, known_right, _, _ = class_values(network, 'val')
    images, values, named, right, sure, eighth = class_values(network, 'test')
    errors = told_by_maps(known, known_named, known_right, values, named, right, sure)
    images, mask = images[eighth], frozen_mask(network, to_tensor(images[eighth]))
    has = mask.flatten(1).any(1).numpy()
    kinds, both = named[eighth][has], dict(predicted_class={k: v[eighth][has] for k, v in values.items()})
    both['nucleus'] = values_of_parts(network, images[has], HardDice(mask[has]))
    found = {name: alone_and_together(v['shap'], kinds, seed) for name, v in both.items()}
    for name, v in both.items():
        found[name]['len_and_shap'] = rank_agreement(v['len'], v['shap'], kinds, seed)
    within = np.mean([cosine(v['shap'], others_of_class(v['shap'], kinds)) for v in both.values()], 0)
    between = cosine(*(v['shap'] for v in both.values()))
    tasks = dict(within=interval(within), between=interval(between), difference=interval(within - between))
    keep('parts_by_cell', about | dict(targets=found, tasks=tasks, errors=errors), seed)


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


# the class under noise

NOISES = (0.04, 0.06, 0.08, 0.09, 0.10)  # Hendrycks and Dietterich, ICLR 2019, for pictures of 32 px


@app.command()
def noise(each: int = 25, seed: int = 0):
    "Balanced error of the class, one view, under noise of pixels and the corruptions of MedMNIST-C."
    network, about = load()
    cells = balanced_sample(load_cells('bloodmnist', 'test', 28), each, seed)

    def wrong(images):
        found = predict(network, images, device='cpu').class_probability.argmax(1)
        return found != cells.labels

    def noisy(strength):
        drawn = np.random.default_rng(seed).normal(0, strength, cells.images.shape)
        return (np.clip(cells.images / 255 + drawn, 0, 1) * 255).round().astype(np.uint8)

    found = {'pixel noise': np.stack([wrong(noisy(strength)) for strength in NOISES])}
    names = [name for name in CORRUPTIONS if name != 'resampling alone']
    for name in names:
        found[name] = np.stack([wrong(corrupt(cells.images, name, s, seed)) for s in range(1, 6)])
        print(name, found[name].mean(1), flush=True)
    whole = interval(np.concatenate([found[name] for name in names]).mean(0))
    rows = {
        name: interval(v.mean(0)) | dict(severities=v.mean(1).round(5).tolist()) for name, v in found.items()
    }
    keep('noise', about | dict(clean=interval(wrong(cells.images)), rows=rows, medmnist_c=whole), seed)


if __name__ == '__main__':
    app()
