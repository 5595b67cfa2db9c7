"""Make the bundled reference: healthy cells of BloodMNIST, blood_unet/weights/healthy-bloodmnist.safetensors.

python bench/reference.py [--each 60]

The first cells of each class of the validation split at 64 px, measured on the masks of
`segment_images`, as a user's cells are. All donors of BloodMNIST were healthy (Acevedo et al. 2020). A few
seconds a hundred cells.
"""

from pathlib import Path

import numpy as np
import typer

import blood_unet
from blood_unet.data import load_cells
from blood_unet.predict import load_networks
from blood_unet.reference import Reference, haematological_measurements, picture_look, save_reference
from blood_unet.cells import outline_cells


def main(each: int = 60):
    cells = load_cells('bloodmnist', 'val', 64)
    cells = cells.subset(np.concatenate([np.flatnonzero(cells.labels == k)[:each] for k in range(8)]))
    masks, _ = outline_cells(list(cells.images), load_networks('blood-unet-64'))
    values = haematological_measurements(cells.images, *zip(*masks)).to_numpy()
    whole = ~np.isnan(values).all(1)
    path = Path(blood_unet.__file__).parent / 'weights' / 'healthy-bloodmnist.safetensors'
    look = picture_look(cells.images[whole])
    save_reference(Reference(values[whole], look, cells.labels[whole], "BloodMNIST's cells"), path)
    print(f'{whole.sum()} cells, {path.stat().st_size} bytes: {path}')


if __name__ == '__main__':
    typer.run(main)
