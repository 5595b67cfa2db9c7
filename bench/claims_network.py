"""Evidence for the ledger of claims: the network changed, or its pictures spoilt; minutes on one core.

python bench/claims_network.py gate      results/gate_mean.json: the channel gate replaced by its mean
python bench/claims_network.py pruning   results/pruning.json: all channels that look idle silenced together
python bench/claims_network.py levels    results/levels_silenced.json: whole levels silenced
python bench/claims_network.py noise     results/noise.json: error of the class under noise and corruptions

What each measures was written into nbs/claims.yaml before this was run.
"""

from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import typer

from claims_kept import keep, load
from blood_unet.data import load_cells
from blood_unet.experts import load_expert
from blood_unet.feature_maps import activations, check_layers, silenced
from blood_unet.heatmaps import pick_gate
from blood_unet.images import to_tensor
from blood_unet.metrics import crossed_interval, dice, interval
from blood_unet.model import ChannelAttention
from blood_unet.predict import predict
from blood_unet.shift import CORRUPTIONS, balanced_sample, corrupt
from blood_unet.targets import HardDice, frozen_mask, score

SETS = ('jiangxi', 'cellavision', 'all_idb2')
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@contextmanager
def output_of(module, change):
    "Inside the block a module gives what `change` makes of its output."
    hook = module.register_forward_hook(lambda m, inputs, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def beside_its_mean(network, part, images) -> dict:
    "What changes of the network's answers when a gate gives its mean over the cells: renamed, and masks."
    kept = []
    with output_of(part, lambda output: kept.append(output)):
        before = predict(network, images, device='cpu')
    mean = torch.cat(kept).mean(0, keepdim=True)
    with output_of(part, lambda output: mean.expand_as(output)):
        after = predict(network, images, device='cpu')
    named = [found.class_probability.argmax(1) for found in (before, after)]
    changed = 1 - dice(before.nucleus, after.nucleus)
    return dict(renamed=interval(named[0] != named[1]), mask=interval(changed))


@app.command()
def gate():
    "The channel gate, the spatial one and an untrained channel gate, each replaced by its mean."
    found = {}
    for name, size in (('blood-unet-28', 28), ('blood-unet-64', 64)):
        network, about = load(name)
        cells = load_cells('bloodmnist', 'test', size)
        module = pick_gate(network, 'channel')
        row = about | dict(n=len(cells), channel=beside_its_mean(network, module.channel, cells.images))
        row['spatial'] = beside_its_mean(network, module.spatial, cells.images)
        torch.manual_seed(0)
        module.channel = ChannelAttention(module.channel.mlp[0].in_features).eval()
        found[name] = row | dict(untrained=beside_its_mean(network, module.channel, cells.images))
    keep('gate_mean', dict(networks=found))


@contextmanager
def without(network, channels: dict):
    "Inside the block the given channels of levels, bool (C,) each, are silenced."
    with ExitStack() as stack:
        for level, gone in channels.items():
            stack.enter_context(silenced(check_layers(network)[level], torch.from_numpy(~gone)[None].float()))
        yield


def contrast(network, x) -> dict:
    "Standard deviation over pixels of each channel of each level, mean over images: name to (C,)."
    with activations(network) as maps:
        network(x)
        return {name: m.flatten(2).std(2).mean(0).numpy() for name, m in maps.items()}


def random_like(gone: dict, rng) -> dict:
    "As many channels of each level, drawn."
    return {name: rng.permutation(mask) for name, mask in gone.items()}


@app.command()
def pruning(draws: int = 20, seed: int = 0):
    "Dice with the whole network that is left without the channels of least contrast, beside random ones."
    network, about = load()
    looks = contrast(network, to_tensor(load_cells('bloodmnist', 'val', 28).images[::8]))
    x = to_tensor(load_cells('bloodmnist', 'test', 28).images[::8])
    mask, rng, found = frozen_mask(network, x), np.random.default_rng(seed), {}
    x, mask = x[has := mask.flatten(1).any(1)], mask[has]
    for share in (0.25, 0.5):
        gone = {name: np.argsort(np.argsort(v)) < int(share * len(v)) for name, v in looks.items()}
        with without(network, gone):
            idle = score(network, HardDice(mask), x)
        others = []
        for _ in range(draws):
            with without(network, random_like(gone, rng)):
                others.append(score(network, HardDice(mask), x))
        row = dict(idle=interval(idle), random=crossed_interval(others))
        found[str(share)] = row | dict(minus_random=crossed_interval(idle - np.stack(others)))
    keep('pruning', about | dict(draws=draws, shares=found), seed)


@app.command()
def levels(draws: int = 3, seed: int = 0):
    "Nucleus Dice with experts that is lost without a level, and without as many channels of all levels."
    network, about = load('blood-unet-64')
    sets = [load_expert(name, 'report') for name in SETS]
    images, truth = ([m for cells in sets for m in getattr(cells, k)] for k in ('images', 'nucleus'))
    width = {name: len(v) for name, v in contrast(network, to_tensor(images[0][None])).items()}
    names, rng = np.repeat(list(width), list(width.values())), np.random.default_rng(seed)

    def reached(gone):
        with without(network, gone):
            found = predict(network, images, device='cpu').nucleus
        return np.array([dice(*pair) for pair in zip(found, truth)])

    whole, found = reached({}), {}
    for level, n in width.items():
        lost = whole - reached({level: np.ones(n, bool)})
        drawn = [rng.permutation(len(names)) < n for _ in range(draws)]
        others = [whole - reached({k: gone[names == k] for k in width}) for gone in drawn]
        row = dict(channels=n, lost=interval(lost), as_many=crossed_interval(others))
        found[level] = row | dict(minus_as_many=crossed_interval(lost - np.stack(others)))
        print(level, found[level], flush=True)
    keep('levels_silenced', about | dict(draws=draws, whole=interval(whole), levels=found), seed)


# the class under noise

NOISES = (0.04, 0.06, 0.08, 0.09, 0.10)  # Hendrycks and Dietterich, ICLR 2019, for pictures of 32 px


@app.command()
def noise(each: int = 25, seed: int = 0):
    "Balanced error of the class, one view, under noise of pixels and the corruptions of MedMNIST-C."
    network, about = load()
    cells = balanced_sample(load_cells('bloodmnist', 'test', 28), each, seed)

    def wrong(images):
        found = predict(network, images, device='cpu').class_probability.argmax(1)
        return found != cells.labels

    def noisy(strength):
        drawn = np.random.default_rng(seed).normal(0, strength, cells.images.shape)
        return (np.clip(cells.images / 255 + drawn, 0, 1) * 255).round().astype(np.uint8)

    found = {'pixel noise': np.stack([wrong(noisy(strength)) for strength in NOISES])}
    names = [name for name in CORRUPTIONS if name != 'resampling alone']
    for name in names:
        found[name] = np.stack([wrong(corrupt(cells.images, name, s, seed)) for s in range(1, 6)])
        print(name, found[name].mean(1), flush=True)
    whole = interval(np.concatenate([found[name] for name in names]).mean(0))
    rows = {
        name: interval(v.mean(0)) | dict(severities=v.mean(1).round(5).tolist()) for name, v in found.items()
    }
    keep('noise', about | dict(clean=interval(wrong(cells.images)), rows=rows, medmnist_c=whole), seed)


if __name__ == '__main__':
    app()
