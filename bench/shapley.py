"""Shapley values measured: a whole test set by class, the cost of exactness, samplers beside each other, and
LEN with SHAP.

python bench/shapley.py whole       results/global_shapley.json: the test split at 28 px, exact, by class;
                                    more targets and fills on a part of it
python bench/shapley.py robust      results/shapley_robust.json: the same values with other masks, and beside
                                    a shifted placebo
python bench/shapley.py cost        results/shapley_cost.json: 8 parts at 64 px beside their 256 bare forwards
python bench/shapley.py sampling    results/shapley_sampling.json: error, coverage and stopping of samplers on
                                    12 superpixels
python bench/shapley.py together    results/len_shap.json: is LEN with SHAP more faithful than each alone?

Each needs BloodMNIST. `--folder` keeps finished chunks, so that a run that was interrupted goes on.
"""

import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import shap
import torch
import typer
from scipy import ndimage as ndi
from torch import nn

from blood_unet.coalitions import (
    FeatureMask,
    MaskingGame,
    all_coalitions,
    cell_parts,
    coalition_values,
    make_game,
    qualified_fills,
    recipe_parts,
    superpixel_game,
)
from blood_unet.core import check_choice, sha256_file, versions
from blood_unet.data import balanced_indices, load_cells
from blood_unet.files import write_json
from blood_unet.images import to_tensor
from blood_unet.local_surrogate import local_surrogate
from blood_unet.metrics import interval
from blood_unet.model import BloodUNet, Output, checkpoint_folder
from blood_unet.predict import predict
from blood_unet.preprocessing import make_masks
from blood_unet.shapley import (
    all_coalition_values,
    by_class,
    combine_values,
    sampled_shapley,
    shapley_from_table,
    shapley_interactions,
    subgame,
)
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask

RESULTS = Path(__file__).parent / 'results'
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def prepare(model: str, size: int, threads: int):
    "Network and test cells"
    torch.set_num_threads(threads)
    return BloodUNet.from_pretrained(model).to(memory_format=torch.channels_last), load_cells(
        'bloodmnist', 'test', size
    )


def facts(model: str, cells, **more) -> dict:
    return dict(
        checkpoint=model,
        sha256=sha256_file(checkpoint_folder(model) / 'model.safetensors'),
        source=cells.source,
        digest=cells.digest,
        versions=versions(('torch', 'numpy', 'shap', 'scikit-image')),
        **more,
    )


def ratio(above, below, seed=0) -> dict:
    "Ratio of means of two measures of the same images (N,), with a 95 % bootstrap interval over images"
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(above), size=(2000, len(above)))
    low, high = np.quantile(above[draws].mean(1) / below[draws].mean(1), [0.025, 0.975])
    return dict(
        ratio=round(float(above.mean() / below.mean()), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        n=len(above),
    )


def rows(table) -> list:
    return table.round(5).to_dict('records')


@app.command()
def whole(
    model: str = 'blood-unet-28', thin: int = 8, folder: Path = None, skip: str = None, threads: int = 1
):
    """Exact values of every test image over five parts, and their means by class.

    The other targets and fills take one image in `thin`; with `skip` a run is left for later, and no result
    written
    """
    network, cells = prepare(model, 28, threads)
    x, parts = to_tensor(cells.images), recipe_parts(cells.images)
    mask, predicted = frozen_mask(network, x), predict(network, cells.images).class_probability.argmax(1)
    has, every = np.flatnonzero(mask.flatten(1).any(1).numpy()), np.arange(len(x))
    context = ('nucleus core', 'nucleus rim')
    some = has[::thin]
    fills = qualified_fills(
        x[some],
        FeatureMask(parts.labels[some], parts.names),
        network,
        HardDice(mask[some]),
        ('nested', 'background', 'mean'),
    )
    plan = {
        'nucleus-nested': (has, ()),
        'nucleus-background': (some, ()),
        'nucleus-mean': (some, ()),
        'context-background': (some, context),
        'context-mean': (some, context),
        'predicted_class-nested': (every[::thin], ()),
        'predicted_class-background': (every[::thin], ()),
        'predicted_class-mean': (every[::thin], ()),
    }
    results = {}
    for run, (
        chosen,
        always,
    ) in plan.items():  # with the nucleus always there, nested is the same as background
        name, fill = run.split('-')
        if fill not in fills or run == skip:
            continue
        target = ClassLogOdds(predicted[chosen]) if name == 'predicted_class' else HardDice(mask[chosen])
        ready = 64 * len(list((folder / run).glob('*.npy'))) if folder else 0
        game, start = (
            make_game(x[chosen], FeatureMask(parts.labels[chosen], parts.names), fill, always),
            time.perf_counter(),
        )
        values = all_coalition_values(game, network, target, folder and folder / run)
        seconds, shapley, pairs = (
            time.perf_counter() - start,
            shapley_from_table(values),
            shapley_interactions(values),
        )
        apart = np.abs(shapley.sum(1) - (values[:, -1] - values[:, 0])).max()
        assert apart < 1e-5, f'values add up to {apart} beside the whole'
        results[run] = dict(
            target=name,
            fill=fill,
            players=game.players.names,
            images=len(chosen),
            forwards=values.size,
            per_second=(
                round((len(chosen) - ready) * values.shape[1] / seconds) if ready < len(chosen) else None
            ),
            additivity=float(apart),
            empty=interval(values[:, 0]),
            full=interval(values[:, -1]),
            by_class=rows(by_class(shapley, cells.labels[chosen], game.players.names)),
            interactions=np.round(pairs.mean(0), 5).tolist(),
            negative=np.round((shapley < 0).mean(0), 4).tolist(),
        )
        print(
            run,
            f'{seconds:.0f} s',
            dict(zip(game.players.names, shapley.mean(0).round(3).tolist())),
            flush=True,
        )
    if skip:
        return
    write_json(
        facts(
            model,
            cells,
            n=len(cells),
            with_nucleus=len(has),
            thin=thin,
            threads=threads,
            qualified={k: round(v, 4) for k, v in fills.items()},
            runs=results,
        ),
        RESULTS / 'global_shapley.json',
    )


@app.command()
def robust(model: str = 'blood-unet-28', images: int = 200, threads: int = 1, seed: int = 0):
    """Values of test images of all classes with masks grown and shrunk by a pixel, and with every part
    shifted by half the picture
    """
    network, cells = prepare(model, 28, threads)
    cells = cells.subset(np.unique(balanced_indices(cells.labels, np.random.default_rng(seed))[: 2 * images]))
    x = to_tensor(cells.images)
    mask, predicted = frozen_mask(network, x), predict(network, cells.images).class_probability.argmax(1)
    pick = np.flatnonzero(mask.flatten(1).any(1).numpy())[:images]
    nucleus, cell, red = (make_masks(cells.images[pick], r) for r in ('nucleus', 'cell', 'red'))
    change = dict(
        plain=lambda m: m,
        grown=lambda m: ndi.binary_dilation(m, axes=(1, 2)),
        shrunk=lambda m: ndi.binary_erosion(m, axes=(1, 2)),
    )
    result = {}
    for name, target in dict(
        nucleus=HardDice(mask[pick]), predicted_class=ClassLogOdds(predicted[pick])
    ).items():
        values = {}
        for how, f in change.items():
            n_, c_ = f(nucleus & cell), f(cell)
            values[how] = shapley_from_table(
                coalition_values(
                    make_game(x[pick], cell_parts(n_ & c_, c_, red & ~c_), 'background'),
                    network,
                    target,
                    all_coalitions(5),
                    128,
                )
            )
        game = make_game(x[pick], cell_parts(nucleus & cell, cell, red & ~cell), 'background')
        shifted = game._replace(
            players=FeatureMask(game.players.labels.roll((14, 14), (1, 2)), game.players.names)
        )
        values['shifted'] = shapley_from_table(
            coalition_values(shifted, network, target, all_coalitions(5), 128)
        )
        result[name] = {
            how: {player: interval(v[:, i]) for i, player in enumerate(game.players.names)}
            for how, v in values.items()
        }
        result[name]['plain_minus_shifted'] = {
            player: interval((values['plain'] - values['shifted'])[:, i])
            for i, player in enumerate(game.players.names)
        }
        print(name, {how: v.mean(0).round(3).tolist() for how, v in values.items()}, flush=True)
    write_json(
        facts(model, cells, n=len(pick), seed=seed, fill='background', targets=result),
        RESULTS / 'shapley_robust.json',
    )


@app.command()
def cost(
    model: str = 'blood-unet-64', images: int = 2, rounds: int = 4, batch_size: int = 64, threads: int = 1
):
    "Seconds of 8 exact parts at 64 px beside those of 256 bare forwards in the same batches, in turn"
    network, cells = prepare(model, 64, threads)
    cells = cells.subset(range(images))
    x = to_tensor(cells.images)
    parts, target = recipe_parts(cells.images, fine=True), HardDice(frozen_mask(network, x))
    game, batch = make_game(x, parts), x[:1].repeat(batch_size, 1, 1, 1)
    seconds = dict(ours=[], bare=[])
    for _ in range(rounds + 1):
        start = time.perf_counter()
        shapley_from_table(coalition_values(game, network, target, all_coalitions(8), batch_size))
        middle = time.perf_counter()
        with torch.no_grad():
            for _ in range(256 * images // batch_size):
                network(batch)
        seconds['ours'].append(middle - start)
        seconds['bare'].append(time.perf_counter() - middle)
    each = np.array(seconds['ours'][1:]) / np.array(seconds['bare'][1:])
    median = {k: round(float(np.median(v[1:])), 3) for k, v in seconds.items()}
    result = dict(
        seconds=median,
        ratio=round(float(np.median(each)), 4),
        lowest=round(float(each.min()), 4),
        highest=round(float(each.max()), 4),
        images=images,
        rounds=rounds,
        batch_size=batch_size,
        threads=threads,
    )
    print(result)
    write_json(facts(model, cells, **result), RESULTS / 'shapley_cost.json')


class TableModel(nn.Module):
    """Reads which players a picture of `table_game` shows, as a number whose bit i is player i.

    An `Output` whose one 'class logit' it is.
    """

    def forward(self, x) -> Output:
        return Output(None, ((x[:, 0, 0] > 0.5) * 2.0 ** torch.arange(x.shape[3])).sum(1, keepdim=True))


def table_game(values) -> tuple:
    """Game, model and target whose values are those of a table, float (N, 2**n), of `shapley_from_table`.

    Every sampler can be run on it again and again without a network.
    """
    values = np.asarray(values, np.float64)
    n = values.shape[1].bit_length() - 1
    table, x = torch.from_numpy(values), torch.ones(len(values), 3, 1, n)
    players = FeatureMask(torch.arange(n).expand(len(values), 1, n), tuple(f'player {i}' for i in range(n)))
    return (
        MaskingGame(x, players, torch.zeros_like(x)),
        TableModel(),
        lambda output, which: table[which, output.class_logits[:, 0].long()],
    )


@contextmanager
def numpy_seed(seed):
    "numpy's global generator, which `shap` draws from, seeded inside the block and put back after it."
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def by_kernel(value, n, samples):
    "One image by `shap.KernelExplainer`; without `l1_reg=False` it keeps ten players and drops the others."
    explainer = shap.KernelExplainer(value, np.zeros((1, n)))
    return explainer.shap_values(np.ones((1, n)), nsamples=samples, l1_reg=False, silent=True)[0]


def by_permutation(value, n, samples):
    explainer = shap.PermutationExplainer(value, np.zeros((1, n)), seed=np.random.randint(2**31))
    return explainer(np.ones((1, n)), max_evals=samples, silent=True).values[0]


def by_enumeration(value, n, samples):
    return shap.ExactExplainer(value, np.zeros((1, n)))(np.ones((1, n)), silent=True).values[0]


SHAP = dict(kernel=by_kernel, permutation=by_permutation, exact=by_enumeration)


def through_shap(game, model, target, samples: int = 1024, seed: int = 0, method: str = 'kernel'):
    """Shapley values of a game by `shap`, to whose explainers a coalition is a row of zeros and ones: float64
    (N, n).

    `method`: of `SHAP`; `samples`: forwards an image, about. Raises `ParameterError` on another method and as
    `coalition_values`. Lundberg and Lee, NeurIPS 2017.
    """
    explain, result = SHAP[check_choice(method, tuple(SHAP), 'method')], []
    for i in range(len(game.x)):
        own, aim = subgame(game, target, [i])

        def value(rows):
            return coalition_values(own, model, aim, np.asarray(rows) > 0.5)[0]

        with numpy_seed([seed, i]):
            result.append(explain(value, game.n, samples))
    return np.stack(result).astype(np.float64)


def superpixel_table(model: str, images: int, folder: Path, threads: int, seed: int, target: str = 'nucleus'):
    "All 4,096 coalitions of twelve superpixels of test cells of all classes: cells and table (N, 4096)"
    network, cells = prepare(model, 28, threads)
    cells = cells.subset(balanced_indices(cells.labels, np.random.default_rng(seed)))
    cells = cells.subset(np.sort(np.unique(cells.names, return_index=True)[1])).subset(range(4 * images))
    mask = frozen_mask(network, to_tensor(cells.images))
    keep = np.flatnonzero(mask.flatten(1).any(1).numpy())[:images]
    cells, mask = cells.subset(keep), mask[keep]
    game = superpixel_game(to_tensor(cells.images), seed=seed)
    goal = (
        HardDice(mask)
        if target == 'nucleus'
        else ClassLogOdds(predict(network, cells.images).class_probability.argmax(1))
    )
    return cells, all_coalition_values(
        game, network, goal, folder and folder / f'superpixels-{target}', chunk=4
    )


@app.command()
def sampling(
    model: str = 'blood-unet-28',
    images: int = 84,
    seeds: int = 10,
    folder: Path = None,
    threads: int = 1,
    seed: int = 0,
):
    """Samplers beside the exact values: error at equal forwards.

    Coverage, width and forwards where the stopping rule stops
    """
    cells, table = superpixel_table(model, images, folder, threads, seed)
    exact, replay = shapley_from_table(table), table_game(table)
    methods = dict(
        ours=lambda m, s: sampled_shapley(*replay, samples=m, seed=s).values,
        unpaired=lambda m, s: sampled_shapley(*replay, samples=m, seed=s, paired=False).values,
        shap_kernel=lambda m, s: through_shap(*replay, samples=m - 2, seed=s),
        shap_permutation=lambda m, s: through_shap(*replay, samples=m, seed=s, method='permutation'),
    )
    errors, equal = {}, {}
    for forwards in (50, 98, 194, 386):  # whole permutations there and back of 12 players, with their ends
        found = {k: np.stack([f(forwards, s) for s in range(seeds)]) - exact for k, f in methods.items()}
        square = {k: (v**2).mean((0, 2)) for k, v in found.items()}
        errors[forwards] = {
            k: dict(
                mean_square=float(f'{square[k].mean():.4g}'),
                variance=float(f'{v.var(0, ddof=1).mean():.4g}'),
                bias=float(f'{v.mean():.2g}'),
            )
            for k, v in found.items()
        }
        variance = {k: v.var(0, ddof=1).mean(1) for k, v in found.items()}
        equal[forwards] = {
            f'ours_over_{k}': ratio(variance['ours'], variance[k]) for k in methods if k != 'ours'
        }
        print(forwards, {k: v['ratio'] for k, v in equal[forwards].items()}, flush=True)
    stopping = {}
    for tolerance in (0.05, 0.02, 0.01):
        runs = [sampled_shapley(*replay, samples=2048, tolerance=tolerance, seed=s) for s in range(seeds)]
        inside = np.stack([(r.low - 1e-9 <= exact) & (exact <= r.high + 1e-9) for r in runs])
        half = np.stack([r.high - r.values for r in runs])
        stopping[tolerance] = dict(
            coverage=interval(inside[0].mean(1)),
            coverage_all_seeds=interval(inside.mean((0, 2))),
            pairs=inside[0].size,
            half_width=interval(half.mean((0, 2))),
            widest=round(float(half.max()), 5),
            forwards=interval(np.mean([r.forwards for r in runs], 0)),
            most_forwards=int(max(r.forwards.max() for r in runs)),
        )
        print(tolerance, stopping[tolerance], flush=True)
    write_json(
        facts(
            model,
            cells,
            images=len(cells),
            players=12,
            fill='background',
            target='nucleus',
            seeds=seeds,
            seed=seed,
            errors=errors,
            equal_forwards=equal,
            stopping=stopping,
            spread=dict(exact=round(float(exact.std()), 4), empty=interval(table[:, 0])),
        ),
        RESULTS / 'shapley_sampling.json',
    )


def agreement_table(together) -> dict:
    "Mean agreement of `CombinedValues` with 95 % bootstrap intervals, over the images where it is defined."
    return {
        name: interval(v[~np.isnan(v)]) for name, v in (('rank', together.rank), ('cosine', together.cosine))
    }


def walk(table, values, insert: bool):
    "Mean value of a table's game while players go (or come), largest value first: (N,)"
    order = np.argsort(-values, 1, kind='stable')
    steps = np.concatenate([np.zeros((len(order), 1), np.int64), np.cumsum(1 << order, 1)], 1)
    return np.take_along_axis(table, steps if insert else table.shape[1] - 1 - steps, 1).mean(1)


@app.command()
def together(
    model: str = 'blood-unet-28',
    images: int = 84,
    class_images: int = 24,
    seeds: int = 10,
    folder: Path = None,
    threads: int = 1,
    seed: int = 0,
):
    """LEN, SHAP and both at equal forwards.

    Deletion, insertion, distance to the exact values, and how far the two agree
    """
    results = {}
    for target, count in dict(nucleus=images, predicted_class=class_images).items():
        if not count:
            continue
        cells, table = superpixel_table(model, count, folder, threads, seed, target)
        exact, replay = shapley_from_table(table), table_game(table)
        near = np.linalg.norm(exact, axis=1)
        results[target] = dict(images=len(cells), digest=cells.digest)
        for forwards in (96, 192, 384):

            def line(m, s):
                return local_surrogate(*replay, samples=m, seed=s, fresh=0).coefficients

            def value(m, s):
                return sampled_shapley(*replay, samples=m, seed=s).values

            measures = {k: [] for k in ('len', 'shap', 'both')}
            agree = []
            for s in range(seeds):
                joined = combine_values(line(forwards // 2, s), value(forwards // 2, s))
                found = dict(len=line(forwards, s), shap=value(forwards, s), both=joined.values)
                agree.append((combine_values(found['len'], found['shap'])))
                for k, v in found.items():
                    measures[k].append(
                        (
                            walk(table, v, False),
                            walk(table, v, True),
                            np.linalg.norm(v - exact, axis=1) / near,
                        )
                    )
            mean = {
                k: dict(zip(('deletion', 'insertion', 'distance'), np.mean(v, 0)))
                for k, v in measures.items()
            }
            results[target][str(forwards)] = (
                {k: {m: interval(v) for m, v in row.items()} for k, row in mean.items()}
                | {
                    f'both_minus_{k}': {m: interval(mean['both'][m] - mean[k][m]) for m in mean[k]}
                    for k in ('len', 'shap')
                }
                | dict(agreement=agreement_table(agree[0]))
            )
            print(
                target,
                forwards,
                {k: {m: round(float(v.mean()), 4) for m, v in row.items()} for k, row in mean.items()},
                results[target][str(forwards)]['agreement'],
                flush=True,
            )
        results[target]['exact'] = dict(
            deletion=interval(walk(table, exact, False)), insertion=interval(walk(table, exact, True))
        )
    about = facts(model, cells, players=12, fill='background', seeds=seeds, seed=seed, targets=results)
    write_json({k: v for k, v in about.items() if k != 'digest'}, RESULTS / 'len_shap.json')


if __name__ == '__main__':
    app()
