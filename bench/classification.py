"""How well the class is told, and how far its probability can be trusted; results/classification.json.

python bench/classification.py [--train]

The bundled networks, and networks of three seeds by the recipe of chapter 10 that saw every class: accuracy,
AUC by MedMNIST's evaluator, calibration beside the error that a perfectly calibrated network would show,
conformal sets, and the balanced error under the corruptions of MedMNIST-C beside peers of the same run.
Temperature, thresholds and the peer's settings are chosen on the validation split; the test split is read for
the report. Networks that are not in data/anomaly/networks are named in the result as not measured; --train
trains them (20 minutes each), and goes on where it was stopped. A quarter of an hour for the rest.
"""

from pathlib import Path

import numpy as np
import torch
import typer
from medmnist.evaluator import getACC, getAUC
from safetensors.torch import load_model
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from blood_unet.calibration import classification_report
from blood_unet.core import versions
from blood_unet.data import load_cells
from blood_unet.files import atomic_path, write_json
from blood_unet.held_out import ASKED, NetworkPlan, ask_network, network_answers, read_answers
from blood_unet.model import from_pretrained
from blood_unet.preprocessing import add_masks
from blood_unet.shift import CORRUPTIONS, balanced_sample, corrupt

TOP = Path(__file__).parent
HOME = TOP.parent / 'data' / 'anomaly'
NETWORKS = HOME / 'networks'
SEEDS = {size: [NetworkPlan('blood-unet', size, (), seed, 10) for seed in range(3)] for size in (28, 64)}
RESNET = NetworkPlan('resnet-18', 28, (), 0, 8)
GOALS = {
    'blood-unet-28, eight views': 0.978,
    'three seeds of 28 px, eight views': 0.982,
    'blood-unet-64, eight views': 0.985,
    'three seeds of 64 px, eight views': 0.988,
}
# of the linear peer: principal components and inverse strength of the penalty, chosen on validation cells
GRID = [(50, 0.1), (150, 0.1)]


def chances(logits):
    return torch.as_tensor(logits).double().softmax(-1).numpy()


def evaluator(labels, p) -> dict:
    "Accuracy and AUC as MedMNIST computes them."
    found = {
        f'medmnist_{k}': f(labels[:, None], p, 'multi-class') for k, f in (('acc', getACC), ('auc', getAUC))
    }
    return {k: round(float(v), 5) for k, v in found.items()}


def bundled_answers(name, splits) -> dict:
    "Probabilities (N, 8) of a bundled network, by view and split; kept in data/anomaly/classification."
    path = HOME / 'classification' / f'{name}-{splits["test"].digest[:12]}.npz'
    if not path.exists():
        said = {
            s: ask_network(from_pretrained(name), splits[s].images, True, False, 'cpu')
            for s in ('val', 'test')
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.savez(
                file, **{f'{s}_{k}': getattr(a, k) for s, a in said.items() for k in ('logits', 'views')}
            )
    with np.load(path, allow_pickle=False) as found:
        return {
            view: {
                s: chances(found[f'{s}_logits']) if one else np.exp(found[f'{s}_views']).mean(1)
                for s in ('val', 'test')
            }
            for view, one in (('one view', True), ('eight views', False))
        }


def trained_answers(plan, splits, train: bool):
    "`Answers` by split of a network of chapter 10, or None where it has not been trained and may not be"
    if train:
        return network_answers(plan, splits, NETWORKS, 'cpu')
    path = NETWORKS / plan.name / 'answers.npz'
    return read_answers(path) if path.exists() else None


def linear_peer(splits):
    "Logistic regression on principal components of pixels, chosen on validation cells; and the attempts"
    flat = {s: splits[s].images.reshape(len(splits[s]), -1) / 255 for s in ASKED}
    fitted, attempts = [], []
    for components, c in GRID:
        line = make_pipeline(
            PCA(components, whiten=True, svd_solver='randomized', random_state=0),
            StandardScaler(),
            LogisticRegression(C=c, max_iter=100),
        )
        line.fit(flat['train'], splits['train'].labels)
        score = float(line.score(flat['val'], splits['val'].labels))
        fitted.append((score, line))
        attempts.append(dict(components=components, C=c, validation_accuracy=round(score, 5)))
    line = max(fitted, key=lambda pair: pair[0])[1]
    return lambda images: line.predict_proba(images.reshape(len(images), -1) / 255), attempts


def network_call(model):
    "A function of uint8 images that gives probabilities of one view"
    return lambda images: chances(ask_network(model, images, False, False, 'cpu').logits)


def trained_call(plan):
    model, home = plan.build(), NETWORKS / plan.name / 'final'
    load_model(model, home / 'model.safetensors')
    return network_call(model)


def three_seeds(size, splits, train: bool) -> dict:
    "Probabilities (N, 8) by name and split of three seeds, each and averaged; {} where one is not trained"
    seeds = {plan: trained_answers(plan, splits, train) for plan in SEEDS[size]}
    if any(said is None for said in seeds.values()):
        return {}
    views = {'one view': lambda a: chances(a.logits), 'eight views': lambda a: np.exp(a.views).mean(1)}
    answers = {}
    for view, told in views.items():
        each = {plan.seed: {s: told(said[s]) for s in ('val', 'test')} for plan, said in seeds.items()}
        answers |= {f'seed {seed} of {size} px, {view}': p for seed, p in each.items()}
        answers[f'three seeds of {size} px, {view}'] = {
            s: np.mean([p[s] for p in each.values()], 0) for s in ('val', 'test')
        }
    return answers


def robustness(callers: dict, each: int = 4, seed: int = 0) -> dict:
    """Balanced error of one view on corrupted test cells at 28 px, the same cells for all.

    `callers`: by name, uint8 images to probabilities; `mean`: over all corruptions and severities.
    """
    found = {name: {} for name in callers}
    cells = balanced_sample(load_cells('bloodmnist', 'test', 28), each, seed)
    for name, corruption in CORRUPTIONS.items():
        for severity in range(1, len(corruption.strengths) + 1):
            images = corrupt(cells.images, name, severity, seed)
            for who, call in callers.items():
                error = 1 - balanced_accuracy_score(cells.labels, call(images).argmax(1))
                found[who].setdefault(name, []).append(round(float(error), 5))
    whole = [name for name in CORRUPTIONS if len(CORRUPTIONS[name].strengths) == 5]
    return {
        who: dict(mean=round(float(np.mean([rows[name] for name in whole])), 5), n=8 * each, by_severity=rows)
        for who, rows in found.items()
    }


def main(train: bool = False, each: int = 4, sizes: str = '28,64'):
    torch.set_num_threads(1)
    asked = [int(size) for size in sizes.split(',')]
    splits = {size: {s: load_cells('bloodmnist', s, size) for s in ASKED} for size in {28, *asked}}
    truth = {s: splits[28][s].labels for s in ASKED}
    masked = {size: {s: add_masks(c) for s, c in splits[size].items()} if train else None for size in splits}
    answers, callers = {}, {}
    for size in asked:
        name = f'blood-unet-{size}'
        answers |= {f'{name}, {view}': p for view, p in bundled_answers(name, splits[size]).items()}
    callers['blood-unet-28'] = network_call(
        from_pretrained('blood-unet-28')
    )  # 64 px: results/corruptions.json
    peer, attempts = linear_peer(splits[28])
    answers['principal components and a line'] = {s: peer(splits[28][s].images) for s in ('val', 'test')}
    callers['principal components and a line'] = peer
    missing = []
    for size in asked:
        found = three_seeds(size, masked[size], train)
        missing += [] if found else [plan.name for plan in SEEDS[size]]
        answers |= found
    if 'three seeds of 28 px, one view' in answers:
        calls = [trained_call(plan) for plan in SEEDS[28]]
        callers['three seeds of 28 px'] = lambda images: np.mean([call(images) for call in calls], 0)
    said = trained_answers(RESNET, masked[28], train)
    if said is None:
        missing.append(RESNET.name)
    else:
        answers['ResNet-18, one view'] = {s: chances(said[s].logits) for s in ('val', 'test')}
        answers['ResNet-18, eight views'] = {s: np.exp(said[s].views).mean(1) for s in ('val', 'test')}
        callers['ResNet-18'] = trained_call(RESNET)
    rows = {
        name: classification_report(p['val'], truth['val'], p['test'], truth['test'])
        | evaluator(truth['test'], p['test'])
        for name, p in answers.items()
    }
    reached = {name: rows[name]['accuracy']['mean'] if name in rows else None for name in GOALS}
    found = dict(
        data={size: splits[size]['test'].digest for size in splits},
        n={s: len(truth[s]) for s in ASKED},
        rows=rows,
        goals={name: dict(goal=goal, reached=reached[name]) for name, goal in GOALS.items()},
        not_measured=missing + [name for name in GOALS if name not in rows],
        attempts=dict(linear_peer=attempts),
        corrupted=robustness(callers, each),
        versions=versions(),
    )
    write_json(found, TOP / 'results' / 'classification.json')
    for name, row in rows.items():
        print(
            name,
            row['accuracy']['mean'],
            row['medmnist_auc'],
            row['ece'],
            row['ece_null'],
            row['at_temperature']['ece'],
        )
    print({who: row['mean'] for who, row in found['corrupted'].items()})


if __name__ == '__main__':
    typer.run(main)
