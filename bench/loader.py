"""How many augmented BloodMNIST images a second: the in-memory loader beside medmnist + torchvision through a DataLoader.

Both give shuffled batches of float images (B, 3, 28, 28) in [0, 1] with labels, flipped both ways and rotated by up to
180 degrees. Each round times one pass over the training split by every contestant in turn, so that whatever else the
machine does falls on all of them; the ratio is that of the medians, to the faster of the peer's two settings.

    python bench/loader.py [--rounds 5] [--threads 2] [--batch 256] [--out bench/results/loader.json]

It needs `bloodmnist.npz` under $BLOOD_UNET_DATA or data/.
"""
import argparse
import platform
import time
from pathlib import Path

import medmnist
import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms

from blood_unet.core import write_json
from blood_unet.data import find_data, load_bloodmnist
from blood_unet.preprocessing import apply_augmentation, draw_augmentation, to_tensor

BILINEAR = transforms.InterpolationMode.BILINEAR


def peer(folder, batch, workers, interpolation):
    "medmnist's dataset with torchvision's transforms, one image at a time, through a DataLoader"
    steps = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip(),
                                transforms.RandomRotation(180, interpolation=interpolation), transforms.ToTensor()])
    data = medmnist.BloodMNIST(split='train', transform=steps, root=str(folder), size=28)
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers)


def ours(images, labels, batch, masks=None):
    "The split as one tensor, a batch augmented at a time, with the masks or without"
    generator = torch.Generator().manual_seed(0)
    for index in torch.randperm(len(images), generator=generator).split(batch):
        x = to_tensor(images[index.numpy()])
        m = x.new_zeros(len(x), 1, *x.shape[2:]) if masks is None else masks[index].float()
        x, m = apply_augmentation(x, m, draw_augmentation(len(x), generator, turn=1.))
        yield x, labels[index]


def seconds(batches):
    "Time of one pass, and the number of images that came"
    start, n = time.perf_counter(), 0
    for x, _ in batches:
        assert x.shape[1:] == (3, 28, 28) and x.dtype == torch.float32
        n += len(x)
    return time.perf_counter() - start, n


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument('--rounds', type=int, default=5)
    parse.add_argument('--threads', type=int, default=2)
    parse.add_argument('--batch', type=int, default=256)
    parse.add_argument('--out', default=str(Path(__file__).parent/'results'/'loader.json'))
    args = parse.parse_args()
    torch.set_num_threads(args.threads)

    cells = load_bloodmnist('train', 28, download=False)
    folder, labels = find_data('bloodmnist.npz').parent, torch.from_numpy(cells.labels)
    masks = torch.zeros(len(cells), 2, 28, 28, dtype=torch.bool)
    nearest = transforms.InterpolationMode.NEAREST
    contestants = {
        'medmnist + torchvision, 0 workers, nearest (defaults)': lambda: peer(folder, args.batch, 0, nearest),
        'medmnist + torchvision, 2 workers, nearest': lambda: peer(folder, args.batch, 2, nearest),
        'medmnist + torchvision, 0 workers, bilinear (as ours)': lambda: peer(folder, args.batch, 0, BILINEAR),
        'blood_unet, images': lambda: ours(cells.images, labels, args.batch),
        'blood_unet, images and two masks': lambda: ours(cells.images, labels, args.batch, masks),
    }
    seconds(contestants['blood_unet, images']())  # first calls allocate
    speed = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, make in contestants.items():
            taken, n = seconds(make())
            assert n == len(cells)
            speed[name].append(n/taken)
            print(f'{name:56} {n/taken:9.0f} images/s', flush=True)

    median = {name: float(np.median(v)) for name, v in speed.items()}
    best = max((n for n in median if n.startswith('medmnist')), key=median.get)
    result = dict(images_per_second=median, rounds=speed, fastest_peer=best,
                  ratio=median['blood_unet, images']/median[best],
                  ratio_with_masks=median['blood_unet, images and two masks']/median[best],
                  ratio_equal_interpolation=median['blood_unet, images']/median['medmnist + torchvision, 0 workers, bilinear (as ours)'],
                  target=20, images=len(cells), size=28, batch=args.batch, threads=args.threads, dataset=cells.source, digest=cells.digest,
                  versions=dict(python=platform.python_version(), torch=torch.__version__, torchvision=torchvision.__version__, medmnist=medmnist.__version__))
    write_json(result, args.out)
    print(f"{result['ratio']:.1f} times the fastest peer ({best}), {result['ratio_with_masks']:.1f} with two masks, "
          f"{result['ratio_equal_interpolation']:.1f} with equal interpolation")


if __name__ == '__main__': main()
