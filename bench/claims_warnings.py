"""Evidence for the ledger of claims: do LEN and SHAP, where they disagree, warn of errors?

python bench/claims_warnings.py errors     results/warnings.json: of wrong classes, and of the worst masks
python bench/claims_warnings.py order      results/wrong_order.json: of parts in a wrong order

Minutes each on one core. What each measures was written into nbs/claims.yaml before this was run.
"""

import numpy as np
import torch
import typer

from claims_kept import keep, load
from claims_parts import class_values, features_of, values_of_parts
from shapley import superpixel_table, table_game
from blood_unet.experts import load_expert
from blood_unet.images import resample, to_tensor
from blood_unet.local_surrogate import local_surrogate
from blood_unet.metrics import auroc, auroc_interval, cosine, dice
from blood_unet.predict import predict
from blood_unet.shapley import combine_values, sampled_shapley, shapley_from_table
from blood_unet.targets import HardDice, frozen_mask

SETS = ('jiangxi', 'cellavision', 'all_idb2')
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def told_by_class(network) -> dict:
    "AUROC for wrong classes of disagreement and of softmax, of test cells."
    _, values, _, right, sure, _ = class_values(network, 'test')
    apart = 1 - cosine(values['len'], values['shap'])
    found = dict(disagreement=auroc_interval(~right, apart), softmax=auroc_interval(~right, -sure))
    return found | dict(minus_softmax=auroc_interval(~right, apart, -sure))


def explained_masks(network, half: str) -> dict:
    "Of expert pictures at 64 px: set, Dice, certainty of the mask and five features of its explanation."
    rows = dict(set=[], dice=[], certainty=[], features=[])
    for name in SETS:
        cells = load_expert(name, half)
        images = np.stack([small(image) for image in cells.images])
        found = predict(network, list(cells.images), device='cpu')
        likely = [np.maximum(p, 1 - p).mean() for p in found.nucleus_probability]
        values = values_of_parts(network, images, HardDice(frozen_mask(network, to_tensor(images))))
        rows['set'] += [name] * len(images)
        rows['dice'] += [float(dice(*pair)) for pair in zip(found.nucleus, cells.nucleus)]
        rows['certainty'] += likely
        rows['features'].append(features_of_masks(values))
    return {k: np.concatenate(v) if k == 'features' else np.array(v) for k, v in rows.items()}


def small(image):
    "An image (64, 64, 3) of one of any size."
    x = resample(to_tensor(image[None]), (64, 64))
    return (x[0].permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)


FEATURES = ('disagreement', 'R2 of LEN', 'evenness', 'largest share', 'share that speaks against')


def features_of_masks(values):
    "Five features (N, 5) of the values of five parts."
    shap, line = values['shap'], values['len']
    size = np.abs(shap) / np.maximum(np.abs(shap).sum(1, keepdims=True), 1e-12)
    usual = np.zeros((1, shap.shape[1]))
    _, against, even = features_of(np.where(shap == 0, 1e-12, shap), np.zeros(len(shap), int), usual).T
    return np.stack([1 - cosine(line, shap), values['r2'], even, size.max(1), against], 1)


def worst(rows):
    "The worst tenth by Dice."
    return rows['dice'] <= np.quantile(rows['dice'], 0.1)


@app.command()
def errors(seed: int = 0):
    "Do explanations tell wrong classes, and the worst masks, as softmax does?"
    network, about = load()
    found = dict(classes=told_by_class(network))
    network, about_masks = load('blood-unet-64')
    known, asked = (explained_masks(network, half) for half in ('choose', 'report'))
    areas = np.array([auroc(worst(known), f) for f in known['features'].T])
    best = int(np.abs(areas - 0.5).argmax())
    sign, bad = (1 if areas[best] > 0.5 else -1), worst(asked)
    score, apart = sign * asked['features'][:, best], asked['features'][:, 0]
    masks = dict(chosen=FEATURES[best], sign=sign, choose=dict(zip(FEATURES, areas.round(4).tolist())))
    masks['chosen_feature'] = auroc_interval(bad, score)
    masks |= dict(disagreement=auroc_interval(bad, apart), certainty=auroc_interval(bad, -asked['certainty']))
    masks['minus_certainty'] = auroc_interval(bad, score, -asked['certainty'])
    masks |= dict(network=about_masks, worst_dice=round(float(np.quantile(asked['dice'], 0.1)), 4))
    keep('warnings', about | found | dict(masks=masks), seed)


def area_of_draws(wrong, scores, seed: int = 0, draws: int = 1000) -> dict:
    "Mean AUROC of seeds (seeds, cells), with a 95 % bootstrap interval over cells."

    def area(pick):
        pairs = [(w[pick], s[pick]) for w, s in zip(wrong, scores)]
        both = [pair for pair in pairs if 0 < pair[0].sum() < len(pick)]
        return np.mean([auroc(*pair) for pair in both]) if both else np.nan

    n = wrong.shape[1]
    picks = np.random.default_rng(seed).integers(n, size=(draws, n))
    low, high = np.nanquantile([area(pick) for pick in picks], [0.025, 0.975])
    told = dict(mean=area(np.arange(n)), low=low, high=high)
    return {k: round(float(v), 5) for k, v in told.items()} | dict(n=n, wrong=round(float(wrong.mean()), 4))


@app.command()
def order(forwards: int = 96, seeds: int = 10, seed: int = 0):
    "Does low agreement of LEN and SHAP tell cells whose first superpixel is not the first?"
    _, about = load()
    found = {}
    for target, images in dict(nucleus=24, predicted_class=24).items():
        _, table = superpixel_table('blood-unet-28', images, None, 1, seed, target)
        first, replay = shapley_from_table(table).argmax(1), table_game(table)
        wrong, apart, width = [], [], []
        for s in range(seeds):
            line = local_surrogate(*replay, samples=forwards, seed=s, fresh=0).coefficients
            drawn = sampled_shapley(*replay, samples=forwards, seed=s)
            joined = combine_values(line, drawn.values)
            wrong.append(joined.values.argmax(1) != first)
            apart.append(1 - joined.rank)
            width.append((drawn.high - drawn.low).max(1))
        wrong, apart, width = map(np.array, (wrong, apart, width))
        found[target] = dict(disagreement=area_of_draws(wrong, apart), width=area_of_draws(wrong, width))
        print(target, found[target], flush=True)
    keep('wrong_order', about | dict(forwards=forwards, seeds=seeds, targets=found), seed)


if __name__ == '__main__':
    torch.set_num_threads(1)
    app()
