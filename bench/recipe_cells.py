"""The cells from which the small networks of recipe_networks.py learn, and the fields some are judged on."""

import dataclasses
from functools import cache

import numpy as np
import torch
from scipy import ndimage as ndi

from variants import labelled
from blood_unet.data import Cells, load_cells, resize_cells
from blood_unet.experts import load_expert
from blood_unet.images import to_tensor
from blood_unet.preprocessing import make_masks

WATCHED = 500  # test cells on which a race is watched
SIDE = 56  # px of a field
FIELDS = {16: 56, 4: 28, 1: 14}  # about so many % of the pixels are nucleus: px of the picture in the field


def into_field(image, masks, side: int, rng):
    """A uint8 picture (SIDE, SIDE, 3) shrunk to `side` px and set somewhere into a field of SIDE px.

    `masks`: nucleus and cell, bool (SIDE, SIDE); around it is its own mirrored surrounding, the cell in it
    replaced by the nearest pixels outside. Returns field and masks.
    """
    away = ndi.binary_dilation(masks[1] | masks[0], iterations=2)
    away = away & ~away.all()  # a cell that fills its picture stays
    nearest = ndi.distance_transform_edt(away, return_distances=False, return_indices=True)
    both = np.stack([image, image[tuple(nearest)]])
    small = resize_cells(Cells(both, nucleus=masks[:1].repeat(2, 0), cell=masks[1:].repeat(2, 0)), side)
    up, left = rng.integers(0, SIDE - side + 1, 2)
    around = (up, SIDE - side - up), (left, SIDE - side - left)
    field = np.pad(small.images[1], (*around, (0, 0)), 'symmetric')
    field[up : up + side, left : left + side] = small.images[0]
    return field, [np.pad(m[0], around) for m in (small.nucleus, small.cell)]


def fields(cells, share: int, seed: int = 0):
    "Cells at SIDE px as fields in which about `share` % of the pixels are nucleus."
    rng = np.random.default_rng(seed)
    pairs = [
        into_field(image, np.stack(masks), FIELDS[share], rng)
        for image, *masks in zip(cells.images, cells.nucleus, cells.cell)
    ]
    nucleus, cell = (np.stack([masks[k] for _, masks in pairs]) for k in (0, 1))
    return Cells(np.stack([field for field, _ in pairs]), cells.labels, nucleus=nucleus, cell=cell)


@cache
def cells_of(name: str):
    "The cells that a recipe names, with masks."
    if name.startswith('field'):
        cells = labelled(load_cells('bloodmnist', 'train', 64, limit=400))
        return fields(resize_cells(cells, SIDE), int(name.split()[1]))
    if name == 'experts':
        return expert_cells()[0]
    if name in ('half', 'thousand'):
        return labelled(load_cells('bloodmnist', 'train', 28, limit=dict(half=2000, thousand=1000)[name]))
    cells = load_cells('bloodmnist', 'train', 28, limit=4000)
    return labelled(cells) if name == 'ours' else with_one_mask(cells, name)


def with_one_mask(cells, recipe: str):
    "Cells whose nucleus and cell are both the one mask of a recipe."
    masks = make_masks(cells.images, recipe)
    return Cells(cells.images, cells.labels, nucleus=masks, cell=masks)


def expert_cells():
    "Jiangxi's choosing half at 28 px without classes: four of five cells to learn from, and the fifth."
    cells = resize_cells(load_expert('jiangxi', 'choose'), 28)
    held = np.arange(len(cells)) % 5 == 4
    cells = dataclasses.replace(cells, labels=None)
    return [cells.subset(k) for k in (~held, held)]


@cache
def watched():
    "Test cells of the races: images as a tensor, labels."
    cells = load_cells('bloodmnist', 'test', 28, limit=WATCHED)
    return to_tensor(cells.images), torch.from_numpy(cells.labels).long()
