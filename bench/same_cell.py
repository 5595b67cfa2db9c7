"""Is one cell the same alone, in a wide margin, amid red cells, near and far? results/same_cell.json

python bench/same_cell.py        # minutes

The 40 `native` pictures of BloodMNIST's laboratory as they are, and each in other frames: a margin of empty
slide that makes it wider by 25 to 200 %, the middle of a field whose rest is red cells and platelets of the
same laboratory, scaled by .3 to 4. Each picture goes by itself through what the command calls; asked for is
the cell nearest to its middle. Compared with the picture as it is: the class, and the area of the nucleus in
um2, where both have a nucleus.
"""

from pathlib import Path

import numpy as np
import torch
import typer
from doubt import native_located
from laboratories import asked_row
from smear import padded, set_into, zoomed
from tqdm import tqdm

from blood_unet.core import sha256_arrays, versions
from blood_unet.files import write_json
from blood_unet.predict import load_networks
from blood_unet.segment import segment_images

RESULT = Path(__file__).parent / 'results' / 'same_cell.json'
MARGINS = (0.25, 0.5, 1, 2)  # wider by so much
ZOOMS = (0.3, 0.5, 2, 4)


def frames(image, fillers, rng) -> dict:
    "A picture in every other frame, by name; `fillers`: pictures of red cells and platelets."
    found = {f'{share:.0%} slide added': padded(image, share, rng) for share in MARGINS}
    around = [fillers[k] for k in rng.integers(len(fillers), size=8)]
    found['amid red cells'] = set_into(image, around)
    return found | {f'{zoom} times': zoomed(image, zoom) for zoom in ZOOMS}


def answer(image, networks) -> dict:
    "Class, certainty and area of the nucleus in um2 of the cell in the middle; no class where none is found."
    row = asked_row(segment_images([image], networks).table)
    if row is None or row['class'] is None:
        return dict(kind=None, certain=False, area=np.nan)
    area = float(row.nucleus_px) * float(row.um_per_pixel) ** 2
    return dict(kind=row['class'], certain=bool(row.certain), area=area or np.nan)


def compared(alone, other) -> dict:
    "How many of n cells are named, how many alike; of the certain ones; and how far the areas are apart."
    both = [(a, b) for a, b in zip(alone, other) if b['kind'] is not None]
    sure = [(a, b) for a, b in both if b['certain']]
    apart = np.array([abs(b['area'] / a['area'] - 1) for a, b in both])
    apart = apart[np.isfinite(apart)]
    return dict(
        n=len(other),
        named=len(both),
        same=sum(a['kind'] == b['kind'] for a, b in both),
        certain=len(sure),
        same_of_certain=sum(a['kind'] == b['kind'] for a, b in sure),
        apart={f'{q}%': round(float(np.percentile(apart, q)), 3) for q in (50, 90)} if len(apart) else None,
    )


def main(threads: int = 1):
    torch.set_num_threads(threads)
    networks, rng = load_networks('auto'), np.random.default_rng(0)
    named = [(name, image) for name, image, *_ in native_located()]
    fillers = [image for name, image in named if name.startswith('PLATELET')]
    alone, others = [], {}
    for name, image in tqdm(named, mininterval=10):
        alone.append(answer(image, networks))
        for label, picture in frames(image, fillers, rng).items():
            others.setdefault(label, []).append(answer(picture, networks))
    every = [one for part in others.values() for one in part]
    found = {label: compared(alone, part) for label, part in others.items()}
    found = dict(
        certain_alone=sum(one['certain'] for one in alone),
        frames=found,
        all=compared(alone * len(others), every),
    )
    data = sha256_arrays([image for _, image in named])
    write_json(found | dict(names=[name for name, _ in named], data=data, versions=versions()), RESULT)
    print(found['all'])


if __name__ == '__main__':
    typer.run(main)
