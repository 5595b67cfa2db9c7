"""Small networks that each differ in one thing of architecture or training, for the ledger of claims.

python bench/recipe_networks.py [--seeds 5] [--out data/recipes]

Trains every network of RECIPES that is not kept yet, the most asked-for first, and keeps its weights and what
its training said; `claims_training.py` measures them. What is not named is as in variants.py: 4,000 cells of
BloodMNIST at 28 px with our masks, 6 epochs in batches of 64, widths (16, 32, 64, 128), Adam, warm-up and
cosine. The loop is that of `blood_unet.training.fit`, to the same bits, with what fit has no option for.
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from tqdm import tqdm

from recipe_cells import FIELDS, cells_of, watched
from variants import WIDTHS
from blood_unet.model import BloodUNet, Output, save_checkpoint
from blood_unet.training import (
    TrainingConfig,
    augment_batch,
    dice_loss,
    epoch_batches,
    learning_rate,
    moving_average,
    total_loss,
    training_tensors,
)

HOME = Path(__file__).parent.parent / 'data' / 'recipes'
NO_CLIPPING = 1e9
EVERY, LEVEL = 10, 0.8  # steps between looks, accuracy at which a watched run ends


class Recipe(NamedTuple):
    "How a network differs from that of variants.py."

    cells: str = 'ours'  # of `cells_of`
    options: dict = {}  # of BloodUNet
    settings: dict = {}  # of TrainingConfig
    skips: bool = True  # False: zeros in place of the skip maps
    augment: bool = True  # False: cells as they are
    loss: str = 'dice'  # of LOSSES, of the masks
    rate: str = 'cosine'  # of RATES
    optimiser: str = 'adam'  # of OPTIMISERS
    watch: bool = False  # look at the accuracy on the way, and end at LEVEL
    seeds: int = 3


# what differs

TURNS = dict(shift=0.0, scale=0.0, colour=0.0, noise=0.0, strong=0.0)  # flips and turns alone
LAST = dict(ema_decay=0.0)  # the last weights, not their moving average
FIELD = dict(epochs=8, batch_size=16, class_weight=0.0, turn=0.0, strong=0.0, colour=1.0)
CLIP = LAST | dict(epochs=1, batch_size=32)
DECAY = LAST | dict(epochs=10, smoothing=0.0)
SHORT = LAST | dict(epochs=4)
RACE = TURNS | dict(epochs=2, batch_size=32, weight_decay=0.0, ema_decay=0.95)
CLIP_RATES, CONSTANT_RATES = (2e-3, 2e-2, 2e-1), (3e-4, 1e-3, 3e-3)
RACE_RATES = dict(adam=(5e-4, 2e-3, 8e-3), sgd=(1e-2, 3e-2, 1e-1))
DECAYS = {'0': (0.0, 'adam'), '.0001 L2': (1e-4, 'adam L2'), '.02': (0.02, 'adam'), '1': (1.0, 'adam')}
FIELD_LOSSES = ('dice', 'cross-entropy', 'weighted cross-entropy')

RECIPES = {
    'base': Recipe(),
    'no attention': Recipe(options=dict(attention='none')),
    'no skips': Recipe(skips=False),
    'labels published': Recipe('published'),
    'labels described': Recipe('described'),
    'labels experts': Recipe('experts', settings=dict(epochs=189)),  # as many steps
    'not augmented': Recipe(augment=False),
    'flips and turns': Recipe(settings=TURNS),
}
RECIPES |= {
    f'field {share} {loss}': Recipe(f'field {share}', dict(widths=(8, 16, 32, 64)), FIELD, loss=loss)
    for share in FIELDS
    for loss in FIELD_LOSSES
}
RECIPES |= {
    f'clip {rate} {name}': Recipe(
        'half', settings=CLIP | dict(learning_rate=rate, max_grad_norm=norm), rate='constant', seeds=5
    )
    for rate in CLIP_RATES
    for name, norm in (('without', NO_CLIPPING), ('with', 1.0))
}
RECIPES |= {
    f'decay {name}': Recipe(
        'thousand', dict(dropout=0.0), DECAY | dict(weight_decay=decay), augment=False, optimiser=optimiser
    )
    for name, (decay, optimiser) in DECAYS.items()
}
RECIPES |= {f'rate {name}': Recipe('half', settings=SHORT, rate=name) for name in ('cosine', 'step')}
RECIPES |= {
    f'rate {rate}': Recipe('half', settings=SHORT | dict(learning_rate=rate), rate='constant')
    for rate in CONSTANT_RATES
}
RECIPES |= {
    f'race {optimiser} {rate}': Recipe(
        settings=RACE | dict(learning_rate=rate), rate='constant', optimiser=optimiser, watch=True
    )
    for optimiser, rates in RACE_RATES.items()
    for rate in rates
}


# how they learn


def cut_skips(network):
    "Zeros in place of the maps that the encoder hands to the decoder, from now on; returns the network."
    for step in network.decoder:
        step.gate.register_forward_hook(lambda module, inputs, skip: torch.zeros_like(skip))
    return network


def build(recipe, seed: int):
    "The untrained network of a recipe."
    torch.manual_seed(seed)
    network = BloodUNet(**dict(widths=WIDTHS) | recipe.options)
    return network if recipe.skips else cut_skips(network)


def cross_entropy(logits, masks, weight=None):
    return F.binary_cross_entropy_with_logits(logits, masks, pos_weight=weight)


LOSSES = {
    'dice': lambda logits, masks, weight: dice_loss(logits, masks).mean(),
    'cross-entropy': lambda logits, masks, weight: cross_entropy(logits, masks),
    'weighted cross-entropy': cross_entropy,
}
RATES = {
    'cosine': learning_rate,
    'constant': lambda step, steps, settings: settings.learning_rate,
    'step': lambda step, steps, settings: settings.learning_rate * 0.1 ** (int(4 * step / steps) // 2),
}


def make_optimiser(network, kind: str, settings):
    "Adam with decoupled decay as in `fit`, Adam with the decay in its gradient (L2), or SGD with momentum."
    about = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if kind == 'sgd':
        return torch.optim.SGD(network.parameters(), momentum=0.9, nesterov=True, **about)
    return torch.optim.Adam(network.parameters(), decoupled_weight_decay=kind == 'adam', **about)


class Step(NamedTuple):
    "What a training step needs."

    network: BloodUNet
    average: torch.nn.Module
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    settings: TrainingConfig
    weight: torch.Tensor  # (2, 1, 1): pixels outside for one inside, of nucleus and cell

    def __call__(self, images, masks, targets, generator) -> float:
        "The loss before a step on one batch."
        if self.recipe.augment:
            x, masks, weights = augment_batch(images, masks, self.settings, generator)
        else:
            x, masks, weights = images.float() / 255, masks.float(), torch.ones(len(images))
        output = Output(*self.network(x.contiguous(memory_format=torch.channels_last)))
        s = self.settings
        loss, dice, _ = total_loss(output, masks, targets, s.class_weight, s.smoothing, weights)
        loss = loss - dice + LOSSES[self.recipe.loss](output.mask_logits, masks, self.weight)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), s.max_grad_norm)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())


def accuracy(network) -> float:
    "Share of the watched test cells that are named rightly."
    images, labels = watched()
    network.eval()
    with torch.inference_mode():
        right = network(images).class_logits.argmax(1) == labels
    network.train()
    return float(right.float().mean())


def learn(network, data, recipe, settings):
    "Train in place. The losses of the steps, and of a watched run the accuracy after every EVERY of them."
    average = moving_average(network.to(memory_format=torch.channels_last), settings.ema_decay)
    optimiser = make_optimiser(network, recipe.optimiser, settings)
    outside = (1 - data[1].float().mean((0, 2, 3))) / data[1].float().mean((0, 2, 3))
    step = Step(network, average, optimiser, recipe, settings, outside[:, None, None])
    losses, looks = [], []
    for epoch in range(settings.epochs):
        number = 1_000_003 * settings.seed + epoch
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)  # dropout
        network.train()
        batches = epoch_batches(data[2], settings, generator)
        for batch in batches:
            rate = RATES[recipe.rate](len(losses), settings.epochs * len(batches), settings)
            for group in optimiser.param_groups:
                group['lr'] = rate
            losses.append(step(*(t[batch] for t in data), generator))
            if recipe.watch and len(losses) % EVERY == 0:
                looks.append(accuracy(average.module))
            if not np.isfinite(losses[-1]) or (looks and looks[-1] >= LEVEL):
                return losses, looks
    network.load_state_dict(average.module.state_dict())
    network.eval()
    return losses, looks


def train(name: str, seed: int, folder: Path):
    "Train one network and keep it, with its losses."
    recipe, start = RECIPES[name], time.perf_counter()
    settings = TrainingConfig(**dict(epochs=6) | recipe.settings | dict(seed=seed))
    network, cells = build(recipe, seed), cells_of(recipe.cells)
    losses, looks = learn(network, training_tensors(cells), recipe, settings)
    finite = [round(loss, 5) if np.isfinite(loss) else None for loss in losses]
    facts = dict(recipe=name, seed=seed, cells=len(cells), losses=finite, looks=looks)
    if recipe.cells.startswith('field'):
        facts |= dict(nucleus=float(cells.nucleus.mean()), cell=float(cells.cell.mean()))
    save_checkpoint(network, folder, **facts, seconds=round(time.perf_counter() - start, 1))


def main(seeds: int = 5, out: Path = HOME, only: str = ''):
    "Train what is not kept yet, of at most so many seeds, of recipes whose name begins with `only`."
    torch.set_num_threads(1)
    jobs = [(n, s) for n, r in RECIPES.items() for s in range(min(seeds, r.seeds)) if n.startswith(only)]
    bar = tqdm(jobs)
    for name, seed in bar:
        bar.set_postfix_str(f'{name}, seed {seed}')
        folder = out / name.replace(' ', '_') / str(seed)
        if not (folder / 'config.json').exists():  # written last
            train(name, seed, folder)


if __name__ == '__main__':
    typer.run(main)
