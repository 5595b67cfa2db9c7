"""Evidence for the ledger of claims: values of the parts of each cell; minutes on one core.

python bench/claims_parts.py     # results/parts_by_cell.json: values of a cell beside its class'; errors

What each measures was written into nbs/claims.yaml before this was run.
"""

import numpy as np
import typer
from scipy.stats import spearmanr

from claims_kept import keep, load
from blood_unet.coalitions import all_coalitions, coalition_values, make_game, recipe_parts
from blood_unet.data import load_cells
from blood_unet.images import to_tensor
from blood_unet.local_surrogate import explained, fit_line, kernel_weights
from blood_unet.metrics import auroc_interval, cosine, interval
from blood_unet.predict import predict
from blood_unet.shapley import shapley_from_table
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def ratio_interval(above, below, seed: int = 0, draws: int = 2000) -> dict:
    "1 minus a ratio of sums over cells (N,) each, with a 95 % bootstrap interval over cells."
    picks = np.random.default_rng(seed).integers(len(above), size=(draws, len(above)))
    low, high = np.quantile(1 - above[picks].sum(1) / below[picks].sum(1), [0.025, 0.975])
    told = dict(mean=1 - above.sum() / below.sum(), low=low, high=high)
    return {k: round(float(v), 5) for k, v in told.items()} | dict(n=len(above))


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


if __name__ == '__main__':
    app()
