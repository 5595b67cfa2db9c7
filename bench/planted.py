"""Result A: would any metric have caught an untrained explainer? Metrics judged on planted phantoms, then on
others and on real cells.

python bench/planted_networks.py          # trains the networks (data/runs/planted) python bench/planted.py
measure           # every network that is there; goes on where it stopped python bench/planted.py real
# blood-unet-28 on BloodMNIST python bench/planted.py summary           # results/planted.json and
results/metrics.json

The rule, fixed before any of it was measured: a metric is trusted if the lower 95 % bound of its AUROC for
telling explanations from untrained explainers is above .75 in each trust family. Explanations:
`EXPLANATIONS`; for agreement with exact Shapley values, not those that play the same game. Under 'none'
nothing is planted: it sets, on even cells, the threshold above which a map names a part.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
import typer

from planted_networks import RUNS, bits, cell_players, network, regions, swap_test
from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.data import load_cells, phantom
from blood_unet.phantom import PLANTED
from blood_unet.controls import CONTROLS, untrained_len, untrained_shape
from blood_unet.heatmaps import attention_maps, grad_cam, integrated_gradients
from blood_unet.targets import ClassLogOdds, HardDice, frozen_mask
from blood_unet.coalitions import recipe_parts
from blood_unet.model import BloodUNet, checkpoint_folder
from blood_unet.images import to_tensor
from blood_unet.preprocessing import make_masks
from blood_unet.faithfulness import METRICS, ExplainedCase, curve, part_sums
from blood_unet.metrics import crossed_interval, pair_auroc
from blood_unet.scorecard import explain_case, judge, make_case, part_explainers

RESULTS, FILLS, BOUND = Path(__file__).parent / 'results', ('nested', 'background'), 0.75
TRUST, UNSEEN = (
    ('texture_nucleus', 'texture_cytoplasm', 'context', 'xor'),
    (
        'colour_nucleus',
        'colour_cytoplasm',
        'background',
    ),
)
EXPLANATIONS = ('integrated gradients', 'LEN', 'sampled SHAP', 'LEN + SHAP', 'LEN, parts', 'exact parts')
SAME_GAME = ('LEN, parts', 'exact parts')
PLAIN = ('probability map', 'darkness', 'centre blob', 'edges', 'random')
CURVES, METRIC_NAMES = ('deletion', 'insertion'), [m for m in METRICS if m != 'smooth randomisation']
app = typer.Typer(pretty_exceptions_enable=False)

PLACES = ('nucleus', 'cytoplasm', 'neighbouring cells', 'background')


def by_place(values, names):
    "Values (N, n) of players added up over the four places of `PLACES`: (N, 4)."
    inside = [[place in name for name in names] for place in PLACES]
    return np.asarray(values) @ np.array(inside, float).T


def named_place(values, threshold: float):
    "Position in `PLACES` of the largest of values (N, 4) where it is above `threshold`, else -1: int (N,)."
    return np.where(values.max(1) > threshold, values.argmax(1), -1)


def planted_cells(family: str, n: int):
    """Cells with the cue, others without it, and where the cue is.

    A bool mask (N, H, W) and a position in `PLACES` (N,), -1 for nowhere.
    """
    pool, flipped = phantom(6 * n, 28, 300, family), phantom(6 * n, 28, 300, family, flip=True)
    masks = list(regions(pool).values())
    where = np.full(len(pool), -1)
    if PLANTED[family]:
        places = [list(regions(pool)).index(part) for part in PLANTED[family]]
        where = np.array(places)[bits(pool, flipped, family).argmax(1)]
    evidence = np.stack([masks[p][i] if p >= 0 else np.zeros_like(masks[0][0]) for i, p in enumerate(where)])
    enough = evidence.sum((1, 2)) >= 12 if PLANTED[family] else np.ones(len(pool), bool)
    rows = np.flatnonzero((pool.labels == 1) & enough)[:n]
    others = pool.subset(np.flatnonzero(pool.labels == 0)[:n])
    return pool.subset(rows), others, evidence[rows], where[rows]


def make_explainers(parts, cells, samples: int, attention: bool = True, **words):
    "The book's methods, each `explain(model, target, x, seed)`."
    found = {
        'Grad-CAM': lambda m, t, x, seed: grad_cam(m, t, x),
        'integrated gradients': lambda m, t, x, seed: integrated_gradients(m, t, x, steps=16),
    }
    if attention:
        found['spatial attention'] = lambda m, t, x, seed: attention_maps(m, x, 'spatial')
    return found | part_explainers(parts, cells.cell, samples=samples, images=cells.images, **words)


def judge_all(case, explainers, seeds, parts):
    """Values of all metrics of explainers, plain controls and untrained networks of both signs, and the sums
    over places; JSON-ready.
    """
    values, places, cost = {}, {}, {}
    nets = {
        f'{kind} {s}': (lambda f, s: lambda m, t, x, seed: f(m, x, s + 1000 * seed))(f, s)
        for kind, f in (('untrained LEN', untrained_len), ('untrained ShapeModel', untrained_shape))
        for s in seeds
    }
    for name, explain in (explainers | {c: CONTROLS[c] for c in PLAIN} | nets).items():
        row = explain_case(case, explain, name)
        cost[name] = [row.forwards, row.seconds]
        both = {f: {keep: curve(case, row.maps, f, keep) for keep in (True, False)} for f in case.games}
        signs = {'': 1, ', turned': -1} if name in nets else {'': 1}
        for word, sign in signs.items():
            turned = ExplainedCase(
                sign * row.maps, row.explain, kept={k: sign * v for k, v in row.kept.items()}
            )
            found = judge(
                case,
                turned,
                (
                    [m for m in METRIC_NAMES if m not in CURVES]
                    if sign == 1
                    else [m for m in METRIC_NAMES if METRICS[m].kind != 'explainer' and m not in CURVES]
                ),
            )
            if sign == 1:
                row.kept |= turned.kept
                plain = found
            else:
                found |= {
                    k: v for k, v in plain.items() if METRICS[k[0]].kind == 'explainer'
                }  # likeness does not see a sign
            for f in case.games:  # hiding by the turned map is keeping by the map
                found['deletion', f] = case.ends(f)[0] - both[f][sign < 0]
                found['insertion', f] = both[f][sign > 0] - case.ends(f)[1]
            for (metric, fill), v in found.items():
                values.setdefault(f'{metric}|{fill}', {})[name + word] = np.round(v, 5).tolist()
            places[name + word] = np.round(by_place(part_sums(turned.maps, parts), parts.names), 5).tolist()
    return dict(values=values, places=places, cost=cost)


@app.command()
def measure(
    n: int = 16,
    samples: int = 48,
    families: str = ','.join(TRUST + ('none',) + UNSEEN),
    seeds: str = '0,1,2,3,4',
    hide: bool = True,
    threads: int = 1,
    limit_s: float = 36000,
):
    "Judge every explainer and control on every network."
    torch.set_num_threads(threads)
    start = time.perf_counter()
    for seed in map(int, seeds.split(',')):
        for family in families.split(','):
            stem = f'{family}-{"hidden" if hide else "plain"}-{seed}'
            path = RUNS / f'{stem}.json'
            if (
                path.exists()
                or not (RUNS / stem / 'config.json').exists()
                or time.perf_counter() - start > limit_s
            ):
                continue
            model, begun = network(family, seed, hide), time.perf_counter()
            cells, others, evidence, where = planted_cells(family, n)
            parts, words = (
                cell_players(cells),
                dict(donors=to_tensor(others.images), donor_players=cell_players(others)),
            )
            outside = evidence if PLANTED[family] and 'nucleus' not in PLANTED[family] else None
            case = make_case(
                model,
                cells.images,
                parts,
                ClassLogOdds(torch.ones(n, dtype=torch.long)),
                FILLS,
                seed=seed,
                evidence=outside,
                draws=33,
                **words,
            )
            found = judge_all(
                case, make_explainers(parts, cells, samples, **words), range(5 * seed, 5 * seed + 5), parts
            )
            ends = {f: [round(float(v.mean()), 4) for v in case.ends(f)] for f in FILLS}
            swap = swap_test(model, family) if PLANTED[family] else None
            write_json(
                dict(
                    family=family,
                    seed=seed,
                    hide=hide,
                    n=n,
                    samples=samples,
                    where=where.tolist(),
                    ends=ends,
                    swap=swap,
                    sha256=sha256_file(RUNS / stem / 'model.safetensors'),
                    seconds=time.perf_counter() - begun,
                    **found,
                ),
                path,
            )
            print(stem, swap, ends, round(time.perf_counter() - begun), 's', flush=True)


@app.command()
def real(
    n: int = 32,
    samples: int = 48,
    checkpoint: str = 'blood-unet-28',
    targets: str = 'nucleus,context,class',
    threads: int = 1,
):
    "The same on real cells, by three targets."
    torch.set_num_threads(threads)
    cells = load_cells('bloodmnist', 'test', 28, limit=4 * n, seed=0)
    nucleus, cell = (make_masks(cells.images, r) for r in ('nucleus', 'cell'))
    model = BloodUNet.from_pretrained(checkpoint)
    good = (
        (frozen_mask(model, to_tensor(cells.images)).numpy().sum((1, 2)) > 20)
        & (cell.sum((1, 2)) > 60)
        & ((~cell).sum((1, 2)) > 60)
    )
    cells = cells.subset(np.flatnonzero(good)[:n])
    cells.cell = make_masks(cells.images, 'cell')
    parts, x = recipe_parts(cells.images), to_tensor(cells.images)
    for name in targets.split(','):
        path = RUNS / f'real-{name}.json'
        if path.exists():
            continue
        begun, always = time.perf_counter(), ('nucleus core', 'nucleus rim') if name == 'context' else ()
        target = (
            ClassLogOdds(torch.from_numpy(cells.labels))
            if name == 'class'
            else HardDice(frozen_mask(model, x))
        )
        case = make_case(model, cells.images, parts, target, FILLS, always, seed=0, draws=33)
        found = judge_all(
            case, make_explainers(parts, cells, samples, attention=False, always=always), range(5), parts
        )
        write_json(
            dict(
                family=f'real: {name}',
                seed=0,
                hide=True,
                n=len(cells),
                samples=samples,
                source=cells.source,
                digest=cells.digest,
                checkpoint=checkpoint,
                sha256=sha256_file(checkpoint_folder(checkpoint) / 'model.safetensors'),
                ends={f: [round(float(v.mean()), 4) for v in case.ends(f)] for f in FILLS},
                swap=None,
                where=[-1] * len(cells),
                seconds=time.perf_counter() - begun,
                **found,
            ),
            path,
        )
        print(path.stem, round(time.perf_counter() - begun), 's', flush=True)


def aurocs(runs, metric: str, against: str, explanations=EXPLANATIONS):
    "AUROC (networks, images) of a metric on the runs of one family."
    rows = []
    for run in runs:
        table = run['values'][metric]
        names = [
            k
            for k in explanations
            if k in table and not (metric.startswith('exact Shapley') and k in SAME_GAME)
        ]
        controls = (
            [k for k in table if k.startswith('untrained')]
            if against == 'untrained'
            else [k for k in PLAIN if k in table]
            if against == 'plain'
            else [against]
        )
        rows.append(pair_auroc([table[k] for k in names], [table[k] for k in controls]) if names else None)
    return None if any(r is None for r in rows) else np.stack(rows)


def naming(groups) -> dict:
    """How often each map names the right place, and any place where nothing is planted, at thresholds set on
    even cells under 'none'.
    """
    found = {}
    methods = [k for k in groups['none'][0]['places'] if not k.startswith('untrained')] + ['untrained']

    def pick(run, name):
        return [
            np.array(v)
            for k, v in run['places'].items()
            if (k.startswith('untrained') if name == 'untrained' else k == name)
        ]

    for name in methods:
        quiet = [v for run in groups['none'] for v in pick(run, name)]
        threshold = float(max(v[::2].max() for v in quiet))
        found[name] = dict(
            threshold=round(threshold, 4),
            none=round(float(np.mean([named_place(v[1::2], threshold) >= 0 for v in quiet])), 4),
        )
        for family, runs in groups.items():
            if family == 'none':
                continue
            right = np.stack(
                [
                    np.mean([named_place(v, threshold) == np.array(run['where']) for v in pick(run, name)], 0)
                    for run in runs
                ]
            )
            largest = np.stack(
                [np.mean([v.argmax(1) == np.array(run['where']) for v in pick(run, name)], 0) for run in runs]
            )
            found[name][family] = crossed_interval(right) | dict(largest=round(float(largest.mean()), 4))
    return found


@app.command()
def summary():
    "Verdicts on the trust families first, then everything else."
    runs = [json.loads(p.read_text()) for p in sorted(RUNS.glob('*.json'))]

    def of(f, hide=True):
        return [r for r in runs if r['family'] == f and r['hide'] == hide]

    def used(f):
        return [r for r in of(f) if f == 'none' or r['swap']['swapped'] >= 0.95]

    trust, metrics = {f: used(f) for f in TRUST if used(f)}, sorted(runs[0]['values'])
    metrics = [m for m in metrics if not m.startswith(('relevance', 'pointing'))] + [
        'relevance mass|',
        'pointing game|',
    ]

    def cell(rs, m, against, **kw):
        return (
            None
            if not rs or m not in rs[0]['values'] or (v := aurocs(rs, m, against, **kw)) is None
            else crossed_interval(v)
        )

    verdict = {}
    for m in metrics:
        bounds = {f: c['low'] for f, rs in trust.items() if (c := cell(rs, m, 'untrained'))}
        verdict[m] = dict(trusted=bool(bounds) and min(bounds.values()) > BOUND, lower_bounds=bounds)
    families = (
        {f: used(f) for f in ('none', *TRUST, *UNSEEN) if used(f)}
        | {f + ', plain network': of(f, False) for f in TRUST + UNSEEN if of(f, False)}
        | {r['family']: [r] for r in runs if r['family'].startswith('real')}
    )
    table = {
        m: {
            f: (
                {a: cell(rs, m, a) for a in ('untrained', 'plain', *PLAIN)}
                | {
                    'by method': {
                        k: cell(rs, m, 'untrained', explanations=(k,))
                        for k in ('Grad-CAM', 'spatial attention', *EXPLANATIONS)
                    }
                }
            )
            for f, rs in families.items()
        }
        for m in metrics
    }
    groups = {f: rs for f, rs in families.items() if f in ('none', *TRUST, *UNSEEN)}
    keep = [
        dict(
            (k, r[k]) for k in ('family', 'seed', 'hide', 'n', 'samples', 'swap', 'ends', 'sha256', 'seconds')
        )
        for r in runs
    ]
    dropped = sorted({f for f in (*TRUST, *UNSEEN) if of(f) and not used(f)})
    write_json(
        dict(
            rule=(
                f'lower 95 % bound of the AUROC against untrained explainers above {BOUND} in each of the'
                ' trust families'
            ),
            bound=BOUND,
            trust=list(trust),
            unseen=[f for f in UNSEEN if used(f)],
            dropped=dropped,
            explanations=EXPLANATIONS,
            same_game=SAME_GAME,
            verdict=verdict,
            auroc=table,
            versions=versions(),
        ),
        RESULTS / 'metrics.json',
    )
    write_json(
        dict(
            naming=naming(groups),
            places=PLACES,
            networks=keep,
            cost={k: v for k, v in runs[0]['cost'].items() if not k.startswith('untrained')},
            versions=versions(),
        ),
        RESULTS / 'planted.json',
    )
    for m in metrics:
        print(m, verdict[m]['trusted'], {f: (v['untrained'] or {}).get('mean') for f, v in table[m].items()})


if __name__ == '__main__':
    app()
