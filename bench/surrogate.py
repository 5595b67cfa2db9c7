"""LEN against `lime_image`: error of the coefficients by forwards and by seconds, coverage of the intervals.

Results/surrogate.json.

Both get the same superpixels, fill, kernel and plain least squares (alpha 0); the truth is the line through
all 4,096 coalitions of 12 superpixels. The values of all coalitions are computed once, kept in `cache`, and
replayed; seconds are measured with the network.

python bench/surrogate.py runs/surrogate --chunks 1    # one more chunk of 25 cells, then the comparison over
those that are there
"""

import time
import warnings
from pathlib import Path

import numpy as np
import torch
import typer
from lime.lime_image import LimeImageExplainer
from sklearn.linear_model import Ridge

from blood_unet.core import sha256_file, versions
from blood_unet.files import atomic_path, write_json
from blood_unet.metrics import interval
from blood_unet.data import load_bloodmnist
from blood_unet.controls import CONTROLS
from blood_unet.targets import ClassLogOdds, HardDice, LogitContrast, frozen_mask, score
from blood_unet.coalitions import all_coalitions, coalition_values, superpixel_game
from blood_unet.local_surrogate import (
    draw_coalitions,
    explained,
    fit_line,
    kernel_weights,
    line_intervals,
    local_surrogate,
    surrogate_design,
)
from blood_unet.model import BloodUNet, checkpoint_folder
from blood_unet.predict import predict
from blood_unet.images import to_tensor

RESULTS, CHUNK, INSIDE, OUTSIDE = Path(__file__).parent / 'results', 25, 6, 6
N = INSIDE + OUTSIDE
SAMPLES = (50, 100, 200, 400, 800, 1600, 3200)
EVERY = all_coalitions(N)
WEIGHTS = kernel_weights(EVERY.sum(1), N)


def number(coalitions):
    return coalitions @ (1 << np.arange(N))


def chosen_cells(model, seed: int):
    """Test images in random order, without those in which the network sees no nucleus, as float images and
    frozen masks.
    """
    cells = load_bloodmnist('test', 28)
    x = to_tensor(cells.images[np.random.default_rng(seed).permutation(len(cells))[:200]])
    mask = frozen_mask(model, x)
    seen = mask.flatten(1).any(1)
    return x[seen][:100], mask[seen][:100], cells.source


def table(model, x, mask, cache: Path, chunks: int):
    "Values of all coalitions: (n, 4096), from the cache, after adding up to `chunks` chunks to it."
    for start in range(0, len(x), CHUNK):
        path = cache / f'values_{start:03d}.npy'
        if path.exists() or chunks == 0:
            continue
        part, chunks = slice(start, start + CHUNK), chunks - 1
        values = coalition_values(
            superpixel_game(x[part], inside=INSIDE, outside=OUTSIDE), model, HardDice(mask[part]), EVERY, 256
        )
        with atomic_path(path) as temporary, open(temporary, 'wb') as f:
            np.save(f, values)
    files = [cache / f'values_{start:03d}.npy' for start in range(0, len(x), CHUNK)]
    there = [f.exists() for f in files]
    first = there.index(False) if False in there else len(files)
    return np.concatenate([np.load(f) for f in files[:first]])


def lime_draw(samples: int, seed: int):
    "The coalitions that `LimeImageExplainer(random_state=seed)` draws, by number."
    state = np.random.RandomState(seed)
    state.randint(0, high=1000)
    data = state.randint(0, 2, samples * N).reshape(samples, N).astype(bool)
    data[0] = True
    return number(data)


def line(values, k, control=False):
    "Coefficients (N,) of one image's line through the coalitions numbered `k`, and its design and ridge."
    design, ridge = surrogate_design(EVERY[k], control=control)
    return fit_line(design, values[None, k], WEIGHTS[k], ridge)[0][0, :N], design, ridge


def ours(samples: int, seed: int, paired: bool = True):
    "The coalitions that LEN draws, by number."
    return number(draw_coalitions(N, samples, np.random.default_rng(seed), paired))


ESTIMATORS = {
    'lime': lambda v, s, seed: line(v, lime_draw(s, seed))[0],
    'no repeats': lambda v, s, seed: line(v, ours(s, seed, False))[0],
    'no repeats, pairs': lambda v, s, seed: line(v, ours(s, seed))[0],
    'no repeats, control variate': lambda v, s, seed: line(v, ours(s, seed, False), True)[0],
    'LEN: all three': lambda v, s, seed: line(v, ours(s, seed), True)[0],
}


def errors(values, truth, seeds: int):
    """Relative error of every estimator: {name: (samples, images, seeds)}.

    Every image and seed has its own draw.
    """

    def one(f, i, s, k):
        return np.linalg.norm(f(values[i], s, 1000 * i + k) - truth[i]) / np.linalg.norm(truth[i])

    return {
        name: np.array(
            [[[one(f, i, s, k) for k in range(seeds)] for i in range(len(values))] for s in SAMPLES]
        )
        for name, f in ESTIMATORS.items()
    }


def rmse(e):
    return np.sqrt((e**2).mean((1, 2)))


def needed(curve, error):
    """Samples at which a curve of RMSE over `SAMPLES` reaches an error, interpolated (or, at its ends,
    prolonged) log-log.
    """
    x, y = np.log(SAMPLES), np.log(curve)
    if np.log(error) > y[0]:
        return float(np.exp(x[0] + (np.log(error) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))
    return float(np.exp(np.interp(-np.log(error), -y, x)))


def equal_error(found, at: int, rng=None):
    """Lime's forwards over LEN's at the RMSE that lime has with `at` samples.

    With `rng`, over a resample of images and of seeds.
    """
    n, k = found['lime'].shape[1:]
    pick = (
        (slice(None), np.arange(n)[:, None], np.arange(k))
        if rng is None
        else (slice(None), rng.integers(0, n, n)[:, None], rng.integers(0, k, k))
    )
    lime, other = (rmse(found[name][pick]) for name in ('lime', 'LEN: all three'))
    target = np.exp(np.interp(np.log(at), np.log(SAMPLES), np.log(lime)))
    return at / needed(other, target)


def coverage(values, truth, samples: int, seeds: int):
    """Share of LEN's intervals that hold the truth, an image each, and their mean width over the norm of the
    truth.
    """
    held, width = np.zeros(len(values)), np.zeros(len(values))
    for i, v in enumerate(values):
        for seed in range(seeds):
            k = ours(samples, 1000 * i + seed)
            found, design, ridge = line(v, k, True)
            half = line_intervals(design, v[None, k], WEIGHTS[k], ridge, N, 2, 1 - samples / 2**N)[0]
            held[i] += (abs(found - truth[i]) <= half).mean() / seeds
            width[i] += 2 * half.mean() / np.linalg.norm(truth[i]) / seeds
    return held, width


def seconds(model, x, mask, truth, cells: int, samples=(50, 100, 200, 400, 800)):
    """Seconds of lime and LEN for one image, in turn, the median over cells.

    And that the replayed draws are lime's own.
    """
    rows, worst = {}, 0.0
    for s in samples:
        took = dict(lime=[], lime_batch_10=[], LEN=[])
        for i in range(cells):
            game, target = (
                superpixel_game(x[i : i + 1], inside=INSIDE, outside=OUTSIDE),
                HardDice(mask[i : i + 1]),
            )
            picture, hidden = (t[0].permute(1, 2, 0).numpy() for t in (game.x, game.absent))

            def classify(images):
                return score(model, target, torch.from_numpy(images).permute(0, 3, 1, 2))[:, None]

            for name, batch in (('lime', 256), ('lime_batch_10', 10)):
                if batch == 10 and s != 200:
                    continue
                explainer = LimeImageExplainer(feature_selection='none', random_state=i)
                start = time.perf_counter()
                answer = explainer.explain_instance(
                    picture,
                    classify,
                    labels=(0,),
                    top_labels=None,
                    hide_color=hidden,
                    num_samples=s,
                    batch_size=batch,
                    segmentation_fn=lambda _: game.players.labels[0].numpy(),
                    model_regressor=Ridge(0.0),
                )
                took[name].append(time.perf_counter() - start)
                theirs = np.array([c for _, c in sorted(answer.local_exp[0])])
                worst = (
                    max(worst, abs(theirs - line(truth[i], lime_draw(s, i))[0]).max())
                    if truth is not None
                    else worst
                )
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                local_surrogate(game, model, target, s, i, fresh=0)
            took['LEN'].append(time.perf_counter() - start)
        rows[s] = {name: round(float(np.median(t)), 4) for name, t in took.items() if t}
        print(s, rows[s], flush=True)
    return rows, worst


def foretold(values, scores):
    """Share of the weighted variance of all coalitions' values (n, 4096) that superpixels' scores (n, 12),
    added up and scaled as fits best, explain: (n,).
    """
    share = WEIGHTS / WEIGHTS.sum()

    def centre(a):
        return a - (a @ share)[:, None]

    a, b = centre(values), centre(scores @ EVERY.T)
    return (a * b @ share) ** 2 / np.maximum((a * a @ share) * (b * b @ share), 1e-300)


def fidelity(model, x, mask, values, truth, seed: int):
    """What LEN's line foretells of all coalitions, beside maps that know nothing of the network or of the
    cell, added up over each superpixel.
    """
    game, target = superpixel_game(x, inside=INSIDE, outside=OUTSIDE), HardDice(mask)
    inside = torch.stack([game.players.labels == i for i in range(N)], 1).double().numpy()

    def sums(maps):
        return np.einsum('ikhw,ihw->ik', inside, maps)

    rows = dict(LEN=truth, random_coefficients=np.random.default_rng(seed).normal(size=truth.shape)) | {
        name: sums(control(model, target, x, seed)) for name, control in CONTROLS.items()
    }
    return {name: interval(foretold(values, scores)) for name, scores in rows.items()}


def fits(model, x, mask, seed: int):
    "R2 on fresh coalitions of LEN with its defaults, by target."
    game = superpixel_game(x, inside=INSIDE, outside=OUTSIDE)
    classes = predict(
        model, np.round(255 * x.permute(0, 2, 3, 1).numpy()).astype(np.uint8), device='cpu'
    ).class_probability.argmax(1)
    rows = {}
    for target in (HardDice(mask), LogitContrast(mask), ClassLogOdds(classes)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = local_surrogate(game, model, target, seed=seed)
        rows[type(target).__name__] = interval(found.r2) | dict(trusted=int(found.trusted.sum()))
        print(type(target).__name__, rows[type(target).__name__], flush=True)
    return rows


def main(
    cache: Path,
    chunks: int = 0,
    seeds: int = 10,
    model: str = 'blood-unet-28',
    seed: int = 0,
    timed: int = 5,
    threads: int = 1,
):
    torch.set_num_threads(threads)
    network = BloodUNet.from_pretrained(model)
    x, mask, source = chosen_cells(network, seed)
    values = table(network, x, mask, cache, chunks)
    x, mask = x[: len(values)], mask[: len(values)]
    truth, ground = fit_line(EVERY.astype(float), values, WEIGHTS)
    found = errors(values, truth, seeds)
    for name, e in found.items():
        print(f'{name:22}', rmse(e).round(4), flush=True)
    ratios = {}
    for at in (100, 200, 400, 800, 1000, 1600, 3200):
        many = [equal_error(found, at, np.random.default_rng(b)) for b in range(300)]
        ratios[at] = dict(
            ratio=round(equal_error(found, at), 3),
            low=round(float(np.quantile(many, 0.025)), 3),
            high=round(float(np.quantile(many, 0.975)), 3),
        )
        print('forwards of lime over LEN at the RMSE of lime with', at, ratios[at], flush=True)
    intervals = {}
    for s in (64, 128, 256, 512, 1024):
        held, width = coverage(values, truth, s, seeds)
        intervals[s] = dict(coverage=interval(held), width=interval(width))
        print('intervals', s, intervals[s], flush=True)
    told, fit = fidelity(network, x, mask, values, truth, seed), fits(network, x, mask, seed)
    print({k: v['mean'] for k, v in told.items()}, flush=True)
    took, worst = seconds(network, x, mask, values, timed)
    per = {name: np.polyfit(list(took), [took[s][name] for s in took], 1) for name in ('lime', 'LEN')}

    def time_of(name, s):
        return float(np.polyval(per[name], s))

    wall = {at: round(time_of('lime', at) / time_of('LEN', at / ratios[at]['ratio']), 3) for at in ratios}
    print('wall time ratios', wall, 'largest difference from lime', worst, flush=True)
    write_json(
        dict(
            checkpoint=model,
            sha256=sha256_file(checkpoint_folder(model) / 'model.safetensors'),
            source=source,
            split='test',
            size=28,
            seed=seed,
            cells=len(values),
            seeds=seeds,
            superpixels=[INSIDE, OUTSIDE],
            target='HardDice',
            fill='background',
            kernel_width=0.25,
            alpha=0.0,
            empty_value=interval(values[:, 0]),
            samples=list(SAMPLES),
            rmse={k: rmse(e).round(6).tolist() for k, e in found.items()},
            forwards_at_equal_error=ratios,
            seconds=took,
            seconds_at_equal_error=wall,
            timed=timed,
            threads=threads,
            replay_difference=worst,
            intervals=intervals,
            fidelity=told,
            r2_by_target=fit,
            r2_of_line=interval(explained(truth, ground, EVERY, values, WEIGHTS)),
            versions=versions(('blood_unet', 'torch', 'numpy', 'lime', 'scikit-learn', 'scikit-image')),
        ),
        RESULTS / 'surrogate.json',
    )


if __name__ == '__main__':
    typer.run(main)
