"""Is the sum of scores that finds unseen classes an accident of its search? results/score_search.json.

python bench/score_search.py     # after anomaly.py --protocol leave-one-out; a minute

For each class held out, all sums of `novelty.SCORES` are tried anew, on the seven networks that leave this
class and one more out: the other one plays the unknown class, on validation images, and this class is in no
image that chooses. The sum that is best there is read on the test images, over three networks. The detectors
of the field are given the same search.
"""

import itertools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from blood_unet.anomaly import SEEDS, SINGLY, choosing_plans, network_scores
from blood_unet.core import versions
from blood_unet.data import CLASSES, load_cells
from blood_unet.files import write_json
from blood_unet.held_out import ASKED, NetworkPlan
from blood_unet.metrics import auroc
from blood_unet.novelty import SCORES

TOP = Path(__file__).parent
NETWORKS = TOP.parent / 'data' / 'anomaly' / 'networks'
PEERS = 'softmax', 'energy', 'Mahalanobis', 'KNN', 'ViM', 'ReAct'


def stacked(plan, splits, split, names):
    "The scores (S, N) of a network, by name, about all images of a split"
    scores = network_scores(plan, splits, NETWORKS)
    return np.stack([scores[split, name] for name in names])


def search(group, splits, names) -> dict:
    "The sum of scores that is best on other classes than `group`, and its AUROC there and for `group`."
    sizes = range(1, len(names) + 1)
    sums = [list(some) for k in sizes for some in itertools.combinations(range(len(names)), k)]
    val, held, areas = splits['val'].labels, CLASSES.index(*group), []
    for other in choosing_plans(NetworkPlan(held_out=group)):
        unknown = next(CLASSES.index(name) for name in other.held_out if name not in group)
        scores, kept = stacked(other, splits, 'val', names)[:, val != held], val[val != held]
        areas.append([auroc(kept == unknown, scores[some].mean(0)) for some in sums])
    best = int(np.mean(areas, 0).argmax())
    seeds = [NetworkPlan(held_out=group, seed=seed) for seed in range(SEEDS)]
    told = np.mean([stacked(plan, splits, 'test', names)[sums[best]].mean(0) for plan in seeds], 0)
    return dict(
        group=list(group),
        sums=len(sums),
        parts=[names[i] for i in sums[best]],
        on_other_classes=round(float(np.mean(areas, 0)[best]), 4),
        auroc=round(float(auroc(splits['test'].labels == held, told)), 4),
    )


def main():
    splits = {split: load_cells('bloodmnist', split, 28) for split in ASKED}
    found = {}
    for who, names in dict(ours=list(SCORES), field=[f'peer {name}' for name in PEERS]).items():
        groups = [search(group, splits, names) for group in tqdm(SINGLY, who)]
        mean = round(float(np.mean([row['auroc'] for row in groups])), 4)
        found[who] = dict(mean=mean, sums=groups[0]['sums'], groups=groups)
        for row in groups:
            print(*row['group'], row['auroc'], row['parts'])
        print(who, mean)
    data = {split: cells.digest for split, cells in splits.items()}
    write_json(found | dict(data=data, versions=versions()), TOP / 'results' / 'score_search.json')


if __name__ == '__main__':
    main()
