"""Masks of a whole array beside the loop of scikit-image calls that defines them.

Are they equal, and what is saved?

Each round times the batch and the loop of every recipe in turn on the same images; the ratio is that of the
medians, on one thread. Every mask is compared, pixel by pixel.

python bench/recipes.py [--images 1000] [--rounds 3] [--sizes 28 64] [--out bench/results/recipes.json]

It needs BloodMNIST under $BLOOD_UNET_DATA or data/ at the sizes asked for.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np

from blood_unet.core import versions, write_json
from blood_unet.data import load_cells
from blood_unet.preprocessing import RECIPES, make_masks


def timed(work):
    "Seconds that `work` takes, and its result"
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(images, name, rounds):
    """Milliseconds an image of batch and loop (medians), their ratio, and the number of images whose masks
    differ
    """
    times = []
    for _ in range(rounds):
        batch, masks = timed(lambda: make_masks(images, name))
        loop, defined = timed(lambda: np.stack([RECIPES[name].one(image) for image in images]))
        times.append((batch, loop))
    batch, loop = np.median(times, 0) * 1000 / len(images)
    return dict(
        batch_ms=round(float(batch), 3),
        loop_ms=round(float(loop), 3),
        ratio=round(float(loop / batch), 2),
        unequal_images=int((masks != defined).any((1, 2)).sum()),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=1000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--sizes', type=int, nargs='+', default=[28, 64])
    parser.add_argument('--out', type=Path, default=Path('bench/results/recipes.json'))
    asked = parser.parse_args()
    report = dict(
        images=asked.images,
        rounds=asked.rounds,
        cpu=platform.processor() or platform.machine(),
        load=os.getloadavg()[0],
        versions=versions(('blood_unet', 'numpy', 'scipy', 'scikit-image')),
        results={},
    )
    for size in asked.sizes:
        cells = load_cells('bloodmnist', 'train', size, limit=asked.images)
        report['results'][str(size)] = dict(dataset=cells.source, digest=cells.digest)
        for name in RECIPES:
            report['results'][str(size)][name] = row = compare(cells.images, name, asked.rounds)
            print(size, name, row, flush=True)
    write_json(report, asked.out)


if __name__ == '__main__':
    main()
