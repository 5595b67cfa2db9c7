"""What `blood-unet segment` says of spoilt pictures: how many it answers, how many of these wrongly.

python bench/spoilt.py        # results/spoilt.json

The 40 `native` pictures of BloodMNIST's laboratory, whole and in the five strengths of each fault of
`doubt.STRENGTHS`, each by itself the user's way. Asked for is the cell nearest to the middle; answered is a
cell whose class is `certain`; one that is not found is not answered. `doubt.py`, from which the rules were
read, looks at cut-out cells; this at what the command gives.
"""

from pathlib import Path

import torch
import typer
from doubt import STRENGTHS, native_located, row_of, spoilt
from laboratories import asked_row
from tqdm import tqdm

from blood_unet.core import sha256_arrays, versions
from blood_unet.data import CLASSES
from blood_unet.files import write_json
from blood_unet.predict import load_networks
from blood_unet.segment import segment_images

RESULT = Path(__file__).parent / 'results' / 'spoilt.json'


def judged(images, labels, networks) -> dict:
    "`doubt.row_of` of pictures and their classes: how many are answered, and how many of these are wrong."
    rows = [asked_row(segment_images([image], networks).table) for image in images]
    answered = [row is not None and bool(row.certain) for row in rows]
    wrong = [sure and row['class'] != CLASSES[label] for row, sure, label in zip(rows, answered, labels)]
    return row_of(sum(answered), sum(wrong), len(rows))


def main(threads: int = 1):
    torch.set_num_threads(threads)
    networks = load_networks('auto')
    names, images, labels, _, located = zip(*native_located())
    found = dict(untouched=judged(images, labels, networks), spoilt={})
    for fault, strengths in STRENGTHS.items():
        found['spoilt'][fault] = {}
        for strength in tqdm(strengths, fault, mininterval=10):
            seen = [spoilt(image, fault, strength, where) for image, where in zip(images, located)]
            found['spoilt'][fault][str(strength)] = judged(seen, labels, networks)
    data = sha256_arrays(list(images), labels)
    write_json(found | dict(names=names, data=data, versions=versions()), RESULT)


if __name__ == '__main__':
    typer.run(main)
