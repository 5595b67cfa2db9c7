"""Training speed and quality of BloodUNet beside MONAI's AttentionUnet of equal widths, in one run.

python bench/training.py      # with the development extras, which bring MONAI

Both networks get the same batches, loss (soft Dice of nucleus and cell), optimiser and number of steps; the
images are BloodMNIST at 28 px, padded to 32. Rounds alternate, so that a busy machine slows both; the ratio
of the medians counts.
"""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from monai.networks.nets import AttentionUnet

from blood_unet.core import versions
from blood_unet.files import write_json
from blood_unet.metrics import bootstrap_mean, dice
from blood_unet.data import load_cells
from blood_unet.model import BloodUNet, count_parameters
from blood_unet.preprocessing import make_masks
from blood_unet.training import dice_loss

WIDTHS, PEER = (16, 32, 64, 128), 'MONAI AttentionUnet'


def tensors(split, limit):
    "Images (N, 3, 32, 32) and masks (N, 2, 32, 32) of BloodMNIST cells, padded, float32."
    cells = load_cells('bloodmnist', split, 28, limit=limit)
    masks = np.stack([make_masks(cells.images, 'nucleus'), make_masks(cells.images, 'cell')], 1)
    x = F.pad(
        torch.from_numpy(cells.images).permute(0, 3, 1, 2).float() / 255, (2, 2, 2, 2), mode='replicate'
    )
    return x.contiguous(memory_format=torch.channels_last), F.pad(
        torch.from_numpy(masks).float(), (2, 2, 2, 2)
    )


def one_epoch(network, optimizer, x, m, seed, batch=64):
    "One epoch over a seeded order; the seconds it took."
    start = time.perf_counter()
    network.train()
    for chosen in torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(batch):
        output = network(x[chosen])
        loss = dice_loss(output[0] if isinstance(output, tuple) else output, m[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def score(network, x, m):
    "Dice per image, mean of nucleus and cell."
    network.eval()
    with torch.no_grad():
        output = [network(b) for b in x.split(256)]
    found = torch.cat([o[0] if isinstance(o, tuple) else o for o in output]).numpy() > 0
    return dice(found, m.numpy() > 0.5).mean(1)


def main(
    train: int = 4000,
    test: int = 1000,
    epochs: int = 6,
    threads: int = 2,
    out: Path = Path(__file__).parent / 'results' / 'training.json',
):
    torch.set_num_threads(threads)
    x, m = tensors('train', train)
    x_test, m_test = tensors('test', test)
    networks, seconds = {}, {}
    for name, build in (
        ('BloodUNet', lambda: BloodUNet(widths=WIDTHS)),
        ('BloodUNet, decoder_depth=1', lambda: BloodUNet(widths=WIDTHS, decoder_depth=1)),
        (PEER, lambda: AttentionUnet(2, 3, 2, channels=WIDTHS, strides=(2, 2, 2))),
    ):
        torch.manual_seed(0)
        network = build().to(memory_format=torch.channels_last)
        networks[name] = network, torch.optim.Adam(network.parameters(), lr=2e-3)
        seconds[name] = []
        one_epoch(*networks[name], x[:256], m[:256], seed=99)  # warm up
    for epoch in range(epochs):
        for name in networks:
            seconds[name].append(one_epoch(*networks[name], x, m, seed=epoch))
        print(
            f'epoch {epoch + 1}:',
            {name: f'{len(x) / s[-1]:.0f} images/s' for name, s in seconds.items()},
            flush=True,
        )
    scores = {name: score(network, x_test, m_test) for name, (network, _) in networks.items()}
    rate = {name: len(x) / float(np.median(s)) for name, s in seconds.items()}
    result = dict(
        images_per_second=rate,
        ratio={name: r / rate[PEER] for name, r in rate.items() if name != PEER},
        seconds=seconds,
        threads=threads,
        dice={name: bootstrap_mean(s) for name, s in scores.items()},
        dice_difference={
            name: bootstrap_mean(s - scores[PEER]) for name, s in scores.items() if name != PEER
        },
        parameters={name: count_parameters(network) for name, (network, _) in networks.items()},
        cells=len(x),
        test_cells=len(x_test),
        epochs=epochs,
        widths=WIDTHS,
        truth='recipe masks',
        versions=versions(('torch', 'monai', 'blood_unet')),
    )
    write_json(result, out)
    print(
        f"times MONAI's speed: {result['ratio']}; Dice {result['dice']}; difference"
        f" {result['dice_difference']}"
    )


if __name__ == '__main__':
    typer.run(main)
