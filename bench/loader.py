"""How many augmented BloodMNIST images a second.

The split as one tensor beside medmnist + torchvision through a DataLoader.

All give shuffled batches of float images (B, 3, 28, 28) in [0, 1] with labels, flipped both ways and rotated
by up to 180 degrees, empty corners zero. Each round times one pass over the training split by every
contestant in turn, so that whatever else the machine does falls on all of them. The ratios are those of the
medians: like with like (nearest with nearest, torchvision's default, and bilinear with bilinear), always to
the faster of no worker and two workers. One thread for everybody (two processes for the peer's workers); 128
is MedMNIST's own batch size; the load of the machine at the start is recorded, since a busy second core takes
from the peer's workers. The last contestant is the library's whole augmentation as training uses it: mirrored
corners, stain change, two masks.

python bench/loader.py [--rounds 5] [--threads 1] [--batch 128] [--out bench/results/loader.json]

It needs `bloodmnist.npz` under $BLOOD_UNET_DATA or data/.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import medmnist
import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms

from blood_unet.files import write_json
from blood_unet.data import find_data, load_bloodmnist
from blood_unet.augmentation import apply_augmentation, draw_augmentation
from blood_unet.images import to_tensor


def peer(folder, batch, workers, interpolation):
    "medmnist's dataset with torchvision's transforms, one image at a time, through a DataLoader"
    steps = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(180, interpolation=interpolation),
            transforms.ToTensor(),
        ]
    )
    data = medmnist.BloodMNIST(split='train', transform=steps, root=str(folder), size=28)
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers)


def pixel_grid(height, width):
    """Coordinates (3, H*W) of the pixels.

    X and y in [-1, 1], and 1, so that one matrix product maps a whole batch
    """
    y, x = torch.meshgrid(*((torch.arange(n) * 2 + 1) / n - 1 for n in (height, width)), indexing='ij')
    return torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)


def ours(images, labels, batch, mode):
    """The split as one array, all numbers of a pass drawn at once, a shuffled batch at a time flipped and
    turned together
    """
    generator, (h, w) = torch.Generator().manual_seed(0), images.shape[1:3]
    affine, base = draw_augmentation(len(images), generator, turn=1.0).affine, pixel_grid(h, w)
    order = torch.randperm(len(images), generator=generator)
    for index, maps in zip(order.split(batch), affine.split(batch)):
        grid = (maps.reshape(-1, 3) @ base).view(-1, 2, h, w).permute(0, 2, 3, 1)
        x = torch.nn.functional.grid_sample(
            to_tensor(images[index.numpy()]), grid, mode=mode, align_corners=False
        )
        yield x, labels[index]


def whole(images, labels, batch, masks):
    "The augmentation of training: also stain and masks"
    generator = torch.Generator().manual_seed(0)
    for index in torch.randperm(len(images), generator=generator).split(batch):
        numbers = draw_augmentation(len(index), generator, turn=1.0, scale=0.2, shift=0.05, colour=0.2)
        x, _ = apply_augmentation(to_tensor(images[index.numpy()]), masks[index].float(), numbers)
        yield x, labels[index]


def seconds(batches):
    "Time of one pass by the clock and by this process' processor time, and the number of images that came"
    start, busy, n = time.perf_counter(), time.process_time(), 0
    for x, _ in batches:
        assert x.shape[1:] == (3, 28, 28) and x.dtype == torch.float32
        n += len(x)
    return time.perf_counter() - start, time.process_time() - busy, n


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument('--rounds', type=int, default=5)
    parse.add_argument('--threads', type=int, default=1)
    parse.add_argument('--batch', type=int, default=128)
    parse.add_argument('--out', default=str(Path(__file__).parent / 'results' / 'loader.json'))
    args = parse.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]

    cells = load_bloodmnist('train', 28, download=False)
    folder, labels = find_data('bloodmnist.npz').parent, torch.from_numpy(cells.labels)
    masks = torch.zeros(len(cells), 2, 28, 28, dtype=torch.bool)
    modes = dict(nearest=transforms.InterpolationMode.NEAREST, bilinear=transforms.InterpolationMode.BILINEAR)
    contestants = {}
    for mode, peer_mode in modes.items():
        for workers in (0, 2):
            contestants[f'medmnist + torchvision, {mode}, {workers} workers'] = (
                lambda w=workers, m=peer_mode: peer(folder, args.batch, w, m)
            )
        contestants[f'blood_unet, {mode}'] = lambda m=mode: ours(cells.images, labels, args.batch, m)
    contestants['blood_unet, whole augmentation, two masks'] = lambda: whole(
        cells.images, labels, args.batch, masks
    )
    seconds(contestants['blood_unet, bilinear']())  # the first pass allocates
    speed, cpu = ({name: [] for name in contestants} for _ in range(2))
    for _ in range(args.rounds):
        for name, make in contestants.items():
            taken, busy, n = seconds(make())
            assert n == len(cells)
            cpu[name].append(1e6 * busy / n)
            speed[name].append(n / taken)
            print(f'{name:56} {n / taken:9.0f} images/s', flush=True)

    median = {name: float(np.median(v)) for name, v in speed.items()}
    fastest = {
        m: max(v for n, v in median.items() if n.startswith(f'medmnist + torchvision, {m}')) for m in modes
    }
    ratio = {m: median[f'blood_unet, {m}'] / fastest[m] for m in modes}
    ratio['whole augmentation, to the peer bilinear'] = (
        median['blood_unet, whole augmentation, two masks'] / fastest['bilinear']
    )
    work = {
        n: float(np.median(v)) for n, v in cpu.items() if '2 workers' not in n
    }  # of workers it is not known
    result = dict(
        ratio=ratio,
        target=20,
        images_per_second=median,
        cpu_microseconds_per_image=work,
        rounds=speed,
        images=len(cells),
        size=28,
        batch=args.batch,
        threads=args.threads,
        cores=os.cpu_count(),
        load_at_start=load,
        dataset=cells.source,
        digest=cells.digest,
        versions=dict(
            python=platform.python_version(),
            torch=torch.__version__,
            torchvision=torchvision.__version__,
            medmnist=medmnist.__version__,
        ),
    )
    write_json(result, args.out)
    print({name: round(value, 1) for name, value in ratio.items()})


if __name__ == '__main__':
    main()
