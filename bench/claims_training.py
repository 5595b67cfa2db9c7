"""Evidence for the ledger of claims: what one thing of the training does to small networks.

python bench/claims_training.py [ROW ...]     results/training_options.json, all rows or those named

As claims_architecture.py: labels, losses, turns, rates, decay, optimisers and clipping. Intervals are of a
bootstrap that draws networks (seeds) and images anew, crossed, unless a row says otherwise.
"""

from functools import cache

import numpy as np
import torch
import typer
from scipy.stats import binomtest, spearmanr, t

import recipe_networks as trained
from claims_architecture import between, each, facts, judge, nucleus_dice, right
from recipe_cells import FIELDS, SIDE, cells_of, expert_cells, fields, with_one_mask
from variants import SETS
from blood_unet.data import Cells, load_cells, resize_cells
from blood_unet.experts import load_expert
from blood_unet.images import to_tensor
from blood_unet.metrics import crossed_interval, dice
from blood_unet.predict import predict
from blood_unet.training import dice_loss

SOURCES = {'ours': 'base'} | {name: f'labels {name}' for name in ('published', 'described', 'experts')}


@cache
def cells_at_28(split: str):
    return load_cells('bloodmnist', split, 28)


# what they learn from


def held_out(source: str):
    "Cells with the nucleus of a source of masks that its networks did not learn from."
    if source == 'experts':
        return expert_cells()[1]
    recipe = 'nucleus' if source == 'ours' else source
    return with_one_mask(load_cells('bloodmnist', 'val', 28, limit=500), recipe)


def own_loss(cells):
    "A measure: mean Dice loss of the nucleus."
    images, masks = to_tensor(cells.images), torch.from_numpy(cells.nucleus)[:, None].float()

    def loss(network):
        with torch.inference_mode():
            return float(dice_loss(network(images).mask_logits[:, :1], masks).mean())

    return loss


def labels(draws: int = 2000, seed: int = 0):
    "Rank correlation of the own loss and expert Dice over sources of masks."
    losses = np.stack([each(name, own_loss(held_out(source))) for source, name in SOURCES.items()])
    reached = np.stack([each(name, nucleus_dice) for name in SOURCES.values()])  # (sources, seeds, images)
    rng, (sources, k, n) = np.random.default_rng(seed), reached.shape
    drawn = []
    for _ in range(draws):
        networks, images = rng.integers(k, size=(sources, k)), rng.integers(n, size=n)
        means = np.take_along_axis(reached[..., images].mean(2), networks, 1)
        drawn.append(spearmanr(np.take_along_axis(losses, networks, 1).ravel(), means.ravel()).statistic)
    whole = spearmanr(losses.ravel(), reached.mean(2).ravel()).statistic
    low, high = np.quantile(drawn, [0.025, 0.975])
    told = {key: round(float(v), 5) for key, v in dict(mean=whole, low=low, high=high).items()}
    rows = {
        source: dict(loss=losses[i].round(5).tolist(), dice=crossed_interval(reached[i]))
        for i, source in enumerate(SOURCES)
    }
    return dict(correlation=told | dict(networks=sources * k, n=n), sources=rows)


def expert_fields(share: int):
    "Expert pictures as fields of which about `share` % is nucleus."
    sets = [resize_cells(load_expert(name, 'report'), SIDE) for name in SETS]
    images, nucleus, cell = (
        np.concatenate([getattr(cells, key) for cells in sets]) for key in ('images', 'nucleus', 'cell')
    )
    return fields(Cells(images, nucleus=nucleus, cell=cell), share, seed=1)


def imbalance():
    "Soft Dice beside cross-entropy, where less and less of a picture is nucleus."
    found = {}
    for share in FIELDS:
        cells = expert_fields(share)

        def reached(network):
            return dice(predict(network, cells.images, size=SIDE).nucleus, cells.nucleus)

        rows = {loss: each(f'field {share} {loss}', reached) for loss in trained.FIELD_LOSSES}
        found[share] = {f'minus {loss}': crossed_interval(rows['dice'] - v) for loss, v in rows.items()}
        found[share].pop('minus dice')
        found[share] |= {
            loss: crossed_interval(v) | dict(each=v.mean(1).round(4).tolist()) for loss, v in rows.items()
        }
        found[share]['share'] = dict(
            learnt=round(facts(f'field {share} dice')[0]['nucleus'], 5),
            experts=round(float(cells.nucleus.mean()), 5),
        )
    return found


def same_when_turned(network):
    "Share of the seven turned or mirrored views of each test cell that are named as the upright one."
    images, names = cells_at_28('test').images, []
    for mirrored in (images, images[:, :, ::-1]):
        for turn in range(4):
            view = np.ascontiguousarray(np.rot90(mirrored, turn, (1, 2)))
            names.append(predict(network, view).class_probability.argmax(1))
    return (np.stack(names[1:]) == names[0]).mean(0)


def turning():
    "Flips and turns beside cells as they are."
    found, arms = {}, ('flips and turns', 'not augmented')
    for what, measure in (('agreement', same_when_turned), ('dice', nucleus_dice)):
        turned, plain = (each(name, measure) for name in arms)
        found[what] = {key: crossed_interval(v) for key, v in zip(arms, (turned, plain))}
        found[what]['gained'] = crossed_interval(turned - plain)
    return found


# how they learn


def schedule():
    "The better of cosine and step beside the best constant rate; validation cells choose both."
    val = {name: each(name, right(cells_at_28('val'))) for name in trained.RECIPES if name.startswith('rate')}
    moving = [name for name in val if name in ('rate cosine', 'rate step')]
    best, constant = (max(k, key=lambda name: val[name].mean()) for k in (moving, val.keys() - moving))
    found = dict(dynamic=best, constant=constant)
    for what, measure in (('accuracy', right(cells_at_28('test'))), ('dice', nucleus_dice)):
        rows = {name: each(name, measure).astype(float) for name in val}
        found[what] = {name: crossed_interval(v) for name, v in rows.items()}
        found[what]['gained'] = crossed_interval(rows[best] - rows[constant])
    return found | dict(validation={name: round(float(v.mean()), 5) for name, v in val.items()})


def decay():
    "Accuracy on the cells learnt from and on test cells, by strength of decay."
    names = [f'decay {name}' for name in trained.DECAYS]
    known, new = (
        {name: each(name, right(cells)).astype(float) for name in names}
        for cells in (cells_of('thousand'), cells_at_28('test'))
    )
    none, found = names[0], {}
    for name in names:
        rows = dict(known=crossed_interval(known[name]), test=crossed_interval(new[name]))
        rows |= dict(gap=between(known[name], new[name]))
        if name != none:
            rows |= dict(gap_lost=between(known[none] - known[name], new[none] - new[name]))
            rows |= dict(test_gained=crossed_interval(new[name] - new[none]))
        found[name] = rows
    return found


def race():
    "Steps to the level of accuracy, Adam beside SGD with momentum, each at its best rate."
    steps, open_runs = {}, {}
    for name in (n for n in trained.RECIPES if n.startswith('race')):
        looks = [one['looks'] for one in facts(name)]
        steps[name] = [trained.EVERY * len(k) for k in looks]  # a run ends where it reaches the level
        open_runs[name] = sum(k[-1] < trained.LEVEL for k in looks)
    adam, sgd = (
        min((n for n in steps if n.startswith(f'race {kind} ')), key=lambda n: np.mean(steps[n]))
        for kind in trained.RACE_RATES
    )
    logs = np.log(steps[adam]) - np.log(steps[sgd])
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    ratio = {
        k: round(float(np.exp(logs.mean() + v)), 5) for k, v in (('mean', 0), ('low', -half), ('high', half))
    }
    return dict(ratio=ratio, adam=adam, sgd=sgd, steps=steps, not_reached=open_runs, level=trained.LEVEL)


def diverges(losses) -> bool:
    "Is a loss not finite, or do the last five lie above the first on the average?"
    return None in losses or np.mean(losses[-5:]) > losses[0]


def share_gained(first, second) -> dict:
    "Share of bool `first` minus that of `second`, with Newcombe's interval (Stat Med 17:873, 1998)."
    (p, a, b), (q, c, d) = (
        (v.mean(), *binomtest(int(v.sum()), len(v)).proportion_ci(method='wilson')) for v in (first, second)
    )
    low, high = p - q - np.hypot(p - a, d - q), p - q + np.hypot(b - p, q - c)
    return {key: round(float(v), 5) for key, v in dict(mean=p - q, low=low, high=high).items()}


def clipping():
    "Share of diverging runs without clipping, and with."
    counts = {
        rate: {k: [diverges(one['losses']) for one in facts(f'clip {rate} {k}')] for k in ('without', 'with')}
        for rate in trained.CLIP_RATES
    }
    without, clipped = (np.concatenate([row[k] for row in counts.values()]) for k in ('without', 'with'))
    rows = {str(rate): {k: int(sum(v)) for k, v in row.items()} for rate, row in counts.items()}
    return dict(share_gained=share_gained(without, clipped), diverged=rows, runs=len(without))


ROWS = {
    labels: ('base', 'labels'),
    imbalance: ('field',),
    turning: ('flips and turns', 'not augmented'),
    clipping: ('clip',),
    decay: ('decay',),
    schedule: ('rate',),
    race: ('race',),
}


def main(rows: list[str] = typer.Argument(None)):
    judge('training_options', ROWS, rows)


if __name__ == '__main__':
    typer.run(main)
