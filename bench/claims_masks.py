"""Evidence for the ledger of claims: masks that nobody learnt, and how they are scored; minutes on one core.

python bench/claims_masks.py sizes     results/recipe_sizes.json: published masks at four sizes, blind ones
python bench/claims_masks.py fine      results/fine_structures.json: Dice when a rim or a gap is cut

What each measures was written into nbs/claims.yaml before this was run.
"""

import numpy as np
import typer
from PIL import Image
from scipy import ndimage as ndi

from claims_kept import keep
from blood_unet.experts import load_expert
from blood_unet.images import resample, target_shape, to_tensor, to_uint8
from blood_unet.metrics import dice, interval
from blood_unet.preprocessing import described, published, published_upright

SETS = ('jiangxi', 'cellavision', 'all_idb2')
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def recipe_at(image, recipe, side):
    "A recipe's mask of a picture that is shrunk to `side` px first (None: as it is), at the picture's size."
    if side is None:
        return recipe(image)
    small = to_uint8(resample(to_tensor(image[None]), target_shape(image.shape[:2], side)))[0]
    mask = Image.fromarray(recipe(small)).resize(image.shape[1::-1], Image.Resampling.NEAREST)
    return np.asarray(mask, bool)


def centred_disk(shape, share: float):
    "A disk in the middle whose radius is a share of the shorter side."
    rows, columns = np.indices(shape)
    return np.hypot(rows - (shape[0] - 1) / 2, columns - (shape[1] - 1) / 2) <= share * min(shape)


@app.command()
def sizes():
    "Nucleus Dice of the published recipe at 28, 64, 128 px and as given, beside masks that see no pixel."
    rows, best, blind = [], {}, {}
    for name in SETS:
        cells = load_expert(name)
        for recipe in (published_upright, published, described):
            for side in (28, 64, 128, None):
                made = [dice(recipe_at(i, recipe, side), m) for i, m in zip(cells.images, cells.nucleus)]
                rows.append(dict(set=name, recipe=recipe.__name__, side=side or 'given', **interval(made)))
        filled = [r for r in rows if (r['set'], r['recipe']) == (name, 'described') and r['side'] != 'given']
        best[name] = max(filled, key=lambda row: row['mean'])
        disks = [
            np.array([dice(centred_disk(m.shape, share), m) for m in cells.nucleus])
            for share in np.arange(1, 11) / 20
        ]
        whole = [dice(np.ones_like(m), m) for m in cells.nucleus]
        disk = max(disks, key=np.mean)
        blind[name] = dict(disk=interval(disk), everything=interval(whole))
    keep('recipe_sizes', dict(rows=rows, best=best, blind=blind))


def surface(mask):
    "The outline of a bool mask (H, W): its own pixels that touch another."
    return mask & ~ndi.binary_erosion(mask, border_value=1)


def surface_dice(a, b, tolerance: float) -> float:
    "Share of the pixels of both outlines that lie within a tolerance of the other (Nikolov et al. 2018)."
    lines = surface(a), surface(b)
    near = [ndi.distance_transform_edt(~other)[own] <= tolerance for own, other in (lines, lines[::-1])]
    return float(np.concatenate(near).mean())


def cut(mask, width: float):
    "A mask without a gap through its middle, across its long axis."
    places = np.argwhere(mask)
    centre = places.mean(0)
    axis = np.linalg.eigh(np.cov((places - centre).T))[1][:, -1]
    along = (np.stack(np.indices(mask.shape), -1) - centre) @ axis
    return mask & (np.abs(along) > width / 2)


@app.command()
def fine():
    "How far Dice, the accuracy of pixels and surface Dice fall when a rim or a gap of 1 % is taken away."
    falls = []
    for name in SETS:
        for mask in load_expert(name).nucleus:
            width = max(1.0, 0.01 * mask.shape[1])
            changed = dict(rim=ndi.distance_transform_edt(mask) > width, gap=cut(mask, width))
            for what, other in changed.items():
                row = dict(set=name, what=what, dice=1 - float(dice(other, mask)))
                row |= dict(pixels=float((other != mask).mean()))
                falls.append(row | dict(surface=1 - surface_dice(other, mask, width / 2)))
    found = {}
    for what in ('rim', 'gap'):
        dices, pixels, outline = (
            np.array([r[k] for r in falls if r['what'] == what]) for k in ('dice', 'pixels', 'surface')
        )
        found[what] = dict(dice=interval(dices), pixels=interval(pixels), surface=interval(outline))
        found[what] |= dict(minus_pixels=interval(dices - pixels), minus_surface=interval(dices - outline))
    keep('fine_structures', found)


if __name__ == '__main__':
    app()
