"""The bundled 64 px network on foreign stains: adapted without an expert mask, and fine-tuned with expert masks.

    python bench/adaptation.py adapt        # images of the set, labelled by the recipe; results/adaptation.json
    python bench/adaptation.py finetune     # expert masks, cross-validated; results/finetuning.json

Measuring only: the licences of the expert sets do not allow shipping weights made from them. The odd images were seen in
trials of these settings, so `adapt`, which reports on them, is not strictly held out.
"""
import dataclasses
from pathlib import Path

import numpy as np
import torch
import typer

from blood_unet.core import dice, interval, sha256_file, versions, write_json
from blood_unet.data import load_expert
from blood_unet.model import BloodUNet, EightViews, checkpoint_folder
from blood_unet.preprocessing import make_masks
from blood_unet.training import Training, evaluate, fit, resize_cells

RESULTS = Path(__file__).parent/'results'
MILD = dict(batch_size=16, strong=0., turn=.7, scale=.2, colour=.1, average=.98)
app = typer.Typer(help=__doc__)



def tuned(name, cells, size, settings):
    "The bundled network, trained on at `size` px with the masks that `cells` carry and no class."
    start = BloodUNet.from_pretrained(name)
    network = BloodUNet(**dict(start.config, input_size=size))
    network.load_state_dict(start.state_dict())
    fit(network, resize_cells(dataclasses.replace(cells, labels=None), size), None, settings, progress=False)
    return EightViews(network)


def provenance(name, settings, size):
    return dict(checkpoint=name, sha256=sha256_file(checkpoint_folder(name)/'model.safetensors'), size=size,
                settings=dataclasses.asdict(settings), views=8, versions=versions())


@app.command()
def adapt(name: str = 'blood-unet-64', size: int = 112, epochs: int = 12, rate: float = 5e-4, threads: int = 2):
    "Train on with every image of a set and its recipe masks; report on the odd images, paired with the recipe."
    torch.set_num_threads(threads)
    settings = Training(epochs=epochs, learning_rate=rate, **MILD)
    rows = {}
    for kind in ('jiangxi', 'cellavision', 'all_idb2'):
        cells = load_expert(kind)
        recipe = {m: make_masks(cells.images, m) for m in ('nucleus', 'cell')}
        network = tuned(name, dataclasses.replace(cells, **recipe), size, settings)
        table, odd = evaluate(network, cells), np.arange(len(cells)) % 2 == 1
        rows[kind] = {}
        for m in recipe:
            teacher = np.array([dice(a, b).item() for a, b in zip(recipe[m], getattr(cells, m))])
            pupil = table[f'{m}_dice'].to_numpy()
            rows[kind][m] = {half: dict(pupil=interval(pupil[chosen]), recipe=interval(teacher[chosen]), paired=interval((pupil - teacher)[chosen]))
                             for half, chosen in (('report', odd), ('choose', ~odd))}
            print(kind, m, rows[kind][m], flush=True)
    write_json(provenance(name, settings, size) | dict(sets=rows), RESULTS/'adaptation.json')


@app.command()
def finetune(name: str = 'blood-unet-64', size: int = 112, epochs: int = 30, rate: float = 1e-3, folds: int = 3, threads: int = 2):
    "Train on with expert masks, `folds`-fold cross-validated over the given images (sorted names, fold = position modulo folds)."
    torch.set_num_threads(threads)
    settings = Training(epochs=epochs, learning_rate=rate, **MILD)
    rows = {}
    for kind in ('jiangxi', 'cellavision'):
        cells = load_expert(kind)
        fold, scores = np.arange(len(cells)) % folds, np.zeros((2, len(cells)))
        for k in range(folds):
            network = tuned(name, cells.subset(np.flatnonzero(fold != k)), size, settings)
            table = evaluate(network, cells.subset(np.flatnonzero(fold == k)))
            scores[:, fold == k] = table.nucleus_dice, table.cell_dice
            print(kind, f'fold {k + 1}/{folds}', scores[:, fold == k].mean(1).round(4), flush=True)
        rows[kind] = dict(nucleus=interval(scores[0]), cell=interval(scores[1]))
        print(kind, rows[kind], flush=True)
    write_json(provenance(name, settings, size) | dict(folds=folds, sets=rows), RESULTS/'finetuning.json')


if __name__ == '__main__':
    app()
