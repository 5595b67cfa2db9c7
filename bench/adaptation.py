"""The bundled 64 px network on foreign stains.

Adapted without an expert mask, and fine-tuned with expert masks.

python bench/adaptation.py adapt        # images of the set, labelled by the recipe; results/adaptation.json
python bench/adaptation.py finetune     # expert masks, cross-validated; results/finetuning.json

Measuring only: the licences of the expert sets do not allow shipping weights made from them. The odd images
were seen in trials of these settings, so `adapt`, which reports on them, is not strictly held out.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import typer

from blood_unet.cells import combine_masks
from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.metrics import dice, interval
from blood_unet.experts import load_expert
from blood_unet.model import MASKS, BloodUNet, checkpoint_folder
from blood_unet.predict import TestTimeAugmentation, Ensemble, predict
from blood_unet.preprocessing import make_masks
from blood_unet.data import resize_cells
from blood_unet.training import TrainingConfig, evaluate, fit

RUNS, RESULTS = Path('runs'), Path(__file__).parent / 'results'
MILD = dict(batch_size=16, strong=0.0, turn=0.7, scale=0.2, colour=0.1, ema_decay=0.98)
app = typer.Typer(help=__doc__)


def tuned(name, cells, size, settings, run):
    """The bundled network, trained on at `size` px with the masks that `cells` carry and no class.

    The state in runs/`run` is taken up if it is there.
    """
    start = BloodUNet.from_pretrained(name)
    network = BloodUNet(**dict(start.config, input_size=size))
    network.load_state_dict(start.state_dict())
    fit(
        network,
        resize_cells(dataclasses.replace(cells, labels=None), size),
        None,
        settings,
        RUNS / run,
        progress=False,
    )
    return network


def combined(found, recipe):
    """Masks of a prediction, combined with the recipe's as `blood-unet segment` does.

    The network where it is sure, else the recipe.
    """
    return {
        m: [combine_masks(p, mask) for p, mask in zip(getattr(found, f'{m}_probability'), recipe[m])]
        for m in MASKS
    }


def provenance(name, settings, size):
    same = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ('epochs', 'seed')}
    return dict(
        checkpoint=name,
        sha256=sha256_file(checkpoint_folder(name) / 'model.safetensors'),
        size=size,
        settings=same,
        views=8,
        versions=versions(),
    )


def settings_for(n: int, steps: int, rate: float, seed: int) -> TrainingConfig:
    """Settings for `n` images: as many epochs as make about `steps` steps, so that a small set is not left
    half learnt, nor a large one learnt with its teacher's slips.
    """
    batches = math.ceil(n / MILD['batch_size'])
    return TrainingConfig(epochs=max(1, round(steps / batches)), learning_rate=rate, seed=seed, **MILD)


@app.command()
def adapt(
    name: str = 'blood-unet-64',
    size: int = 112,
    steps: int = 112,
    rate: float = 5e-4,
    seeds: int = 3,
    threads: int = 2,
):
    """Train on with every image of a set and its recipe masks.

    Report on the odd images, paired with the recipe.

    The pupils, `seeds` networks averaged, are reported as they come, and combined with the recipe's masks.
    """
    torch.set_num_threads(threads)
    rows, epochs = {}, {}
    for kind in ('cellavision', 'all_idb2', 'jiangxi'):
        cells, rows[kind] = load_expert(kind), {}
        settings = [settings_for(len(cells), steps, rate, seed) for seed in range(seeds)]
        recipe, odd, epochs[kind] = (
            {m: make_masks(cells.images, m) for m in MASKS},
            np.arange(len(cells)) % 2 == 1,
            settings[0].epochs,
        )
        pupils = [
            tuned(name, dataclasses.replace(cells, **recipe), size, s, f'adapted-{kind}-{s.epochs}-{s.seed}')
            for s in settings
        ]
        found = predict(TestTimeAugmentation(Ensemble(pupils)), cells.images)
        joined = combined(found, recipe)

        def against(masks, m):
            return np.array([float(dice(a, b)) for a, b in zip(masks, getattr(cells, m))])

        for m in MASKS:
            teacher = against(recipe[m], m)
            for label, masks in ((m, getattr(found, m)), (f'{m}, settled', joined[m])):
                pupil = against(masks, m)
                rows[kind][label] = {
                    half: dict(
                        pupil=interval(pupil[chosen]),
                        recipe=interval(teacher[chosen]),
                        paired=interval((pupil - teacher)[chosen]),
                    )
                    for half, chosen in (('report', odd), ('choose', ~odd), ('all', odd | True))
                }
                print(
                    kind,
                    label,
                    {half: (r['pupil']['mean'], r['paired']) for half, r in rows[kind][label].items()},
                    flush=True,
                )
    write_json(
        provenance(name, settings[0], size) | dict(seeds=seeds, steps=steps, epochs=epochs, sets=rows),
        RESULTS / 'adaptation.json',
    )


@app.command()
def finetune(
    name: str = 'blood-unet-64',
    size: int = 112,
    steps: int = 240,
    rate: float = 1e-3,
    folds: int = 5,
    threads: int = 2,
):
    """Train on with expert masks, `folds`-fold cross-validated over the given images (sorted names, fold =
    position modulo folds).
    """
    torch.set_num_threads(threads)
    rows, epochs = {}, {}
    for kind in ('cellavision', 'jiangxi'):
        cells = load_expert(kind)
        fold, scores = np.arange(len(cells)) % folds, np.zeros((2, len(cells)))
        for k in range(folds):
            taught = cells.subset(np.flatnonzero(fold != k))
            settings = settings_for(len(taught), steps, rate, seed=0)
            table = evaluate(
                TestTimeAugmentation(
                    tuned(name, taught, size, settings, f'fine-{kind}-{settings.epochs}-{folds}-{k}')
                ),
                cells.subset(np.flatnonzero(fold == k)),
            )
            scores[:, fold == k] = table.nucleus_dice, table.cell_dice
            print(kind, f'fold {k + 1}/{folds}', scores[:, fold == k].mean(1).round(4), flush=True)
        rows[kind], epochs[kind] = (
            dict(nucleus=interval(scores[0]), cell=interval(scores[1])),
            settings.epochs,
        )
        print(kind, rows[kind], flush=True)
    write_json(
        provenance(name, settings, size) | dict(folds=folds, steps=steps, epochs=epochs, sets=rows),
        RESULTS / 'finetuning.json',
    )


if __name__ == '__main__':
    app()
