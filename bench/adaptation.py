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
from blood_unet.model import BloodUNet, EightViews, Ensemble, checkpoint_folder, predict
from blood_unet.preprocessing import finish_nucleus, make_masks
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
    return network


def provenance(name, settings, size):
    return dict(checkpoint=name, sha256=sha256_file(checkpoint_folder(name)/'model.safetensors'), size=size,
                settings=dataclasses.asdict(settings), views=8, versions=versions())


@app.command()
def adapt(name: str = 'blood-unet-64', size: int = 112, epochs: int = 12, rate: float = 5e-4, seeds: int = 2, threads: int = 2):
    """Train on with every image of a set and its recipe masks; report on the odd images, paired with the recipe.

    The pupil's nuclei are reported as they come and finished as the recipe finishes its own (opened, grouped, holes filled)."""
    torch.set_num_threads(threads)
    settings = [Training(epochs=epochs, learning_rate=rate, seed=seed, **MILD) for seed in range(seeds)]
    rows = {}
    for kind in ('jiangxi', 'cellavision', 'all_idb2'):
        cells = load_expert(kind)
        recipe = {m: make_masks(cells.images, m) for m in ('nucleus', 'cell')}
        taught, odd = dataclasses.replace(cells, **recipe), np.arange(len(cells)) % 2 == 1
        found = predict(EightViews(Ensemble([tuned(name, taught, size, s) for s in settings])), cells.images)
        against = lambda masks, m: np.array([float(dice(a, b)) for a, b in zip(masks, getattr(cells, m))])
        pupils = {'nucleus': ('nucleus', found.nucleus), 'nucleus, finished': ('nucleus', [finish_nucleus(mask) for mask in found.nucleus]), 'cell': ('cell', found.cell)}
        rows[kind] = {}
        for label, (m, masks) in pupils.items():
            teacher, pupil = against(recipe[m], m), against(masks, m)
            rows[kind][label] = {half: dict(pupil=interval(pupil[chosen]), recipe=interval(teacher[chosen]), paired=interval((pupil - teacher)[chosen]))
                                 for half, chosen in (('report', odd), ('choose', ~odd), ('all', odd | True))}
            print(kind, label, {half: (r['pupil']['mean'], r['paired']) for half, r in rows[kind][label].items()}, flush=True)
    write_json(provenance(name, settings[0], size) | dict(seeds=seeds, sets=rows), RESULTS/'adaptation.json')


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
            network = EightViews(tuned(name, cells.subset(np.flatnonzero(fold != k)), size, settings))
            table = evaluate(network, cells.subset(np.flatnonzero(fold == k)))
            scores[:, fold == k] = table.nucleus_dice, table.cell_dice
            print(kind, f'fold {k + 1}/{folds}', scores[:, fold == k].mean(1).round(4), flush=True)
        rows[kind] = dict(nucleus=interval(scores[0]), cell=interval(scores[1]))
        print(kind, rows[kind], flush=True)
    write_json(provenance(name, settings, size) | dict(folds=folds, sets=rows), RESULTS/'finetuning.json')


if __name__ == '__main__':
    app()
