"""Changes of one part, planted in healthy cells of BloodMNIST: are they seen, and is the part named?

python bench/odd_parts.py [--half report]     # results/odd_parts.json; --half choose only prints

The reference is that of `reference.py`: of the validation split at 64 px the first 60 cells of each class.
Changed are cells of the next 60, of the six classes with cytoplasm: what was added to the measurements was
chosen on the even ones of them, and the odd ones report.
"""

from pathlib import Path

import numpy as np
import typer

from blood_unet.core import check_choice
from blood_unet.data import CLASSES, load_cells
from blood_unet.files import write_json
from blood_unet.planted import planted_protocol, planted_table

LEFT_OUT = 'erythroblast', 'platelet'  # hardly any cytoplasm, and no nucleus
HALVES = 'choose', 'report'


def main(half: str = 'report', each: int = 60):
    check_choice(half, HALVES, 'half')
    cells = load_cells('bloodmnist', 'val', 64)
    kinds = [k for k, name in enumerate(CLASSES) if name not in LEFT_OUT]
    places = [np.flatnonzero(cells.labels == k) for k in kinds]
    home = cells.subset(np.concatenate([own[:each] for own in places]))
    asked = np.concatenate([own[each : 2 * each][HALVES.index(half) :: 2] for own in places])
    found = planted_protocol(home, cells.subset(asked))
    print(planted_table(found).round(3).to_string())
    if half == 'report':
        about = dict(split='val', size=64, half=half, each=each, classes=[CLASSES[k] for k in kinds])
        write_json(about | found, Path(__file__).parent / 'results' / 'odd_parts.json')


if __name__ == '__main__':
    typer.run(main)
