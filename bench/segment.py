"""What `blood-unet segment` gives on the expert sets: network, recipe, and both, on each half.

Results/segment.json.

python bench/segment.py
"""

from pathlib import Path

import numpy as np
import torch
import typer

from blood_unet.cells import label_cells, recipe_mask
from blood_unet.segment import segment_images
from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.metrics import dice, interval
from blood_unet.experts import load_expert
from blood_unet.model import BloodUNet, checkpoint_folder
from blood_unet.predict import TestTimeAugmentation, predict

RESULTS = Path(__file__).parent / 'results'


def middle_masks(images, model) -> dict:
    "Masks of the cell in the middle of each picture, as `segment_images` outlines it; empty of none."
    found = segment_images(images, model)
    labels = [label_cells(*one) for one in zip(found.pictures, (image.shape[:2] for image in images))]
    return {mask: [pair[k] == 1 for pair in labels] for k, mask in enumerate(('nucleus', 'cell'))}


def main(model: str = 'blood-unet-64', threads: int = 2):
    torch.set_num_threads(threads)
    network, rows = TestTimeAugmentation(BloodUNet.from_pretrained(model)), {}
    for name in ('jiangxi', 'cellavision', 'all_idb2'):
        rows[name] = {}
        for half in ('choose', 'report'):
            cells = load_expert(name, half)
            plain, both = predict(network, cells.images), middle_masks(cells.images, model)
            rows[name][half] = {}
            for mask in ('nucleus', 'cell'):

                def score(masks):
                    return np.array([float(dice(a, b)) for a, b in zip(masks, getattr(cells, mask))])

                scores = dict(
                    network=score(getattr(plain, mask)),
                    recipe=score([recipe_mask(image, mask) for image in cells.images]),
                    both=score(both[mask]),
                )
                rows[name][half][mask] = {k: interval(v) for k, v in scores.items()} | dict(
                    worst_decile={
                        k: round(float(np.sort(v)[: max(1, len(v) // 10)].mean()), 5)
                        for k, v in scores.items()
                    },
                    both_minus_network=interval(scores['both'] - scores['network']),
                    both_minus_recipe=interval(scores['both'] - scores['recipe']),
                )
                print(
                    name,
                    half,
                    mask,
                    {k: v['mean'] for k, v in rows[name][half][mask].items() if k != 'worst_decile'},
                    flush=True,
                )
    write_json(
        dict(
            checkpoint=model,
            sha256=sha256_file(checkpoint_folder(model) / 'model.safetensors'),
            views=8,
            sets=rows,
            versions=versions(),
        ),
        RESULTS / 'segment.json',
    )


if __name__ == '__main__':
    typer.run(main)
