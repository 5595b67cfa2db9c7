"""Models of other libraries, with random weights: which are taken, turned back into logits, or refused.

python bench/foreign_models.py

Each is asked for exact Shapley values and integrated gradients of two drawn cells, in four number types. No
weights are downloaded. Needs segmentation_models.pytorch, MONAI and torchvision.
"""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torchvision
import typer
from monai.networks import nets
from PIL import Image
from torch import nn

from blood_unet.adapter import Adapter, ProbabilityWarning, answer_of
from blood_unet.coalitions import make_game, recipe_parts
from blood_unet.core import BloodUNetError, versions
from blood_unet.data import phantom
from blood_unet.files import write_json
from blood_unet.heatmaps import integrated_gradients
from blood_unet.images import to_tensor
from blood_unet.shapley import exact_shapley_values
from blood_unet.targets import ClassLogOdds, LogitContrast, score

RESULTS = Path(__file__).parent / 'results'
TYPES = ('float32', 'float16', 'bfloat16', 'float64')


class Then(nn.Module):
    "A network whose answer a function changes."

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x):
        return self.function(self.model(x))


class Smaller(nn.Module):
    "A network that is shown 60 px of 64."

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x[..., :60, :60])


def plain(channels: int = 3, out: int = 1):
    "A small network of convolutions."
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, out, 3, padding=1))


def classifier(out: int = 3):
    "A small classifier."
    return nn.Sequential(plain(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, out))


def hardly(out: int = 1):
    "A network whose logits all lie in [0, 1], as those of one that is hardly trained may."
    model = plain(3, out)
    nn.init.constant_(model[2].bias, 0.5)
    nn.init.normal_(model[2].weight, std=0.01)
    return model


def broken():
    model = plain()
    nn.init.constant_(model[2].bias, float('nan'))
    return model


def of_smp() -> dict:
    "Name to a function that builds it."
    names = 'Unet UnetPlusPlus MAnet Linknet FPN PSPNet PAN DeepLabV3 DeepLabV3Plus UPerNet Segformer'.split()
    small = dict(encoder_name='resnet18', encoder_weights=None)
    found = {name: lambda name=name: getattr(smp, name)(**small, classes=1) for name in names}
    aux = dict(classes=3, dropout=0.1)
    return found | {
        "Unet, activation='sigmoid'": lambda: smp.Unet(**small, classes=1, activation='sigmoid'),
        "Unet, activation='softmax2d'": lambda: smp.Unet(**small, classes=3, activation='softmax2d'),
        "FPN, activation='logsoftmax'": lambda: smp.FPN(**small, classes=3, activation='logsoftmax'),
        'Unet with a class': lambda: smp.Unet(**small, classes=1, aux_params=aux),
        'Unet with a class, both activated': lambda: smp.Unet(
            **small, activation='sigmoid', aux_params=aux | dict(activation='softmax')
        ),
        'Unet of 1 channel': lambda: smp.Unet(**small, classes=1, in_channels=1),
        'Unet of 4 channels': lambda: smp.Unet(**small, classes=1, in_channels=4),
        'Unet, shown 60 of 64 px': lambda: Smaller(smp.Unet(**small)),
    }


def of_monai() -> dict:
    "Name to a function that builds it."
    two = dict(spatial_dims=2, in_channels=3)
    steps = dict(channels=(8, 16, 32), strides=(2, 2))
    kernels = dict(kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2])
    return {
        'UNet': lambda: nets.UNet(**two, out_channels=1, **steps),
        'UNet, sigmoid': lambda: nn.Sequential(nets.UNet(**two, out_channels=1, **steps), nn.Sigmoid()),
        'UNet, softmax': lambda: nn.Sequential(nets.UNet(**two, out_channels=3, **steps), nn.Softmax(1)),
        'AttentionUnet': lambda: nets.AttentionUnet(**two, out_channels=1, **steps),
        'BasicUNet': lambda: nets.BasicUNet(**two, out_channels=1, features=(8, 8, 16, 16, 32, 8)),
        'SegResNet': lambda: nets.SegResNet(**two, out_channels=1, init_filters=8),
        'DynUNet': lambda: nets.DynUNet(**two, out_channels=1, **kernels),
        'DynUNet, deep supervision': lambda: nets.DynUNet(
            **two, out_channels=1, **kernels, deep_supervision=True
        ),
        'BasicUNetPlusPlus': lambda: nets.BasicUNetPlusPlus(
            **two, out_channels=1, features=(8, 8, 16, 16, 32, 8)
        ),
        'DenseNet121': lambda: nets.DenseNet121(**two, out_channels=3),
        'EfficientNetBN': lambda: nets.EfficientNetBN('efficientnet-b0', False, num_classes=3),
        'FlexibleUNet': lambda: nets.FlexibleUNet(3, 1, 'efficientnet-b0'),
        'HighResNet': lambda: nets.HighResNet(**two, out_channels=1),
        'SegResNetVAE': lambda: nets.SegResNetVAE((64, 64), **two, out_channels=1, init_filters=8),
        'SegResNetDS': lambda: nets.SegResNetDS(**two, out_channels=1, init_filters=8, blocks_down=(1, 1)),
        'ResNet': lambda: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=3),
        'SEResNet50': lambda: nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=3),
    }


def of_torchvision() -> dict:
    "Name to a function that builds it."
    m, none = torchvision.models, dict(weights=None, weights_backbone=None)
    return {
        'fcn_resnet50': lambda: m.segmentation.fcn_resnet50(**none, num_classes=2),
        'fcn_resnet50 with auxiliary masks': lambda: m.segmentation.fcn_resnet50(
            **none, num_classes=2, aux_loss=True
        ),
        'lraspp_mobilenet_v3_large': lambda: m.segmentation.lraspp_mobilenet_v3_large(**none, num_classes=2),
        'deeplabv3_mobilenet_v3_large': lambda: m.segmentation.deeplabv3_mobilenet_v3_large(
            **none, num_classes=2
        ),
        'resnet18': lambda: m.resnet18(num_classes=3),
        'resnet18, softmax': lambda: nn.Sequential(m.resnet18(num_classes=3), nn.Softmax(1)),
        'resnet18, one logit, sigmoid': lambda: nn.Sequential(m.resnet18(num_classes=1), nn.Sigmoid()),
        'mobilenet_v3_small': lambda: m.mobilenet_v3_small(num_classes=3),
        'convnext_tiny': lambda: m.convnext_tiny(num_classes=3),
        'googlenet': lambda: m.googlenet(num_classes=3, init_weights=False),
        'vit_b_16 (of 224 px)': lambda: m.vit_b_16(num_classes=3),
        'maskrcnn_resnet50_fpn': lambda: m.detection.maskrcnn_resnet50_fpn(**none, num_classes=2),
    }


def by_hand() -> dict:
    "Name to a function that builds it."

    def then(function, model=None):
        return lambda: Then(model() if model else plain(), function)

    return {
        'convolutions': plain,
        'sigmoid': then(torch.sigmoid),
        'sigmoid, then resized': then(
            lambda y: nn.functional.interpolate(y.sigmoid()[..., ::2, ::2], (64, 64), mode='bilinear')
        ),
        'logarithm of a sigmoid': then(nn.functional.logsigmoid),
        'logarithm of a softmax': then(lambda y: y.log_softmax(1), lambda: plain(3, 3)),
        'logits that lie in [0, 1]': hardly,
        'logits that lie in [0, 1], scripted': lambda: torch.jit.script(hardly()),
        'sigmoid, scripted': lambda: torch.jit.script(nn.Sequential(plain(), nn.Sigmoid())),
        'sigmoid, traced': lambda: torch.jit.trace(
            nn.Sequential(plain(), nn.Sigmoid()), torch.rand(1, 3, 64, 64)
        ),
        'sigmoid, torch.compile': lambda: torch.compile(
            nn.Sequential(plain(), nn.Sigmoid()), backend='eager'
        ),
        'sigmoid, DataParallel': lambda: nn.DataParallel(nn.Sequential(plain(), nn.Sigmoid())),
        'bool masks': then(lambda y: y > 0),
        'a dict of other names': then(lambda y: dict(masks=y, classes=y.mean((2, 3)))),
        'an object with logits': then(lambda y: SimpleNamespace(logits=y)),
        'two masks': then(lambda y: (y, y)),
        'a label map': then(lambda y: y.argmax(1), lambda: plain(3, 3)),
        'masks at half the size': then(lambda y: y[..., ::2, ::2]),
        'NaN': broken,
        'classifier': classifier,
        'classifier, softmax': then(lambda y: y.softmax(1), classifier),
        'classifier, logarithm of a softmax': then(lambda y: y.log_softmax(1), classifier),
        'classifier, one logit, sigmoid': then(torch.sigmoid, lambda: classifier(1)),
    }


def question(model, x, cells):
    "What a model is asked: its contrast of the drawn nuclei, or the log-odds of its first class."
    region = LogitContrast(torch.from_numpy(cells.nucleus))
    try:
        score(model, region, x)
    except BloodUNetError as error:
        if 'a model without masks' not in str(error):
            raise
        return ClassLogOdds(0)
    return region


def explained(model, x, cells) -> dict:
    "Shapley values and maps, what was asked, and what was said; or the sentence of a refusal."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            target = question(model, x, cells)
            values = exact_shapley_values(make_game(x, recipe_parts(cells.images)), model, target)
        except BloodUNetError as error:
            return dict(said='refused', sentence=str(error))
        try:
            maps = integrated_gradients(model, target, x, steps=4)
        except BloodUNetError as error:
            maps, refused = None, str(error)
        else:
            refused = ''
        with torch.no_grad():
            answer = answer_of(model, x)
        logits = answer.class_logits if isinstance(target, ClassLogOdds) else answer.mask_logits
    told = [str(w.message) for w in caught if issubclass(w.category, ProbabilityWarning)]
    return dict(
        said='turned back' if told else 'taken',
        sentence=told[0] if told else '',
        asked=type(target).__name__,
        no_map=refused,
        values=values,
        maps=maps,
        largest=float(logits.abs().max()),
    )


def compared(found: dict, first: dict) -> dict:
    """What one number type gave beside float32.

    `off`: the largest difference of a Shapley value, in units of the largest logit; `alike`: the correlation
    of the maps; None where there is nothing to compare (refused, no gradient, a map of one value).
    """
    row = dict(said=found['said'], off=None, alike=None)
    if found['said'] != 'refused' and first['said'] != 'refused':
        row['off'] = float(np.abs(found['values'] - first['values']).max() / first['largest'])
        maps = found['maps'], first['maps']
        if all(m is not None and np.ptp(m) > 0 for m in maps):
            row['alike'] = float(np.corrcoef(*(m.ravel() for m in maps))[0, 1])
    return row


def try_model(build, cells, x, seed: int = 0) -> dict:
    "One row: what happens in float32, and how far the other types are from it."
    found = {}
    for name in TYPES:
        torch.manual_seed(seed)
        model = build().eval().to(getattr(torch, name))
        found[name] = explained(Adapter(model), x, cells)
    first = found.pop('float32')
    kept = {k: first.get(k) for k in ('said', 'sentence', 'asked', 'no_map')}
    return kept | dict(types={name: compared(row, first) for name, row in found.items()})


def pictures(cells, x) -> dict:
    "Wrong pictures and options by name: a function that asks with them."
    image, target = cells.images, LogitContrast(torch.from_numpy(cells.nucleus))
    torch.manual_seed(0)
    model = plain().eval()

    def ask(given, **options):
        return lambda: score(Adapter(model, **options), target, given)

    return {
        'uint8 tensor': ask(torch.from_numpy(image).permute(0, 3, 1, 2)),
        'floats of 0 to 255': ask(255 * x),
        'to_tensor(image / 255)': lambda: to_tensor(image / 255),
        'tensor divided by 255 twice': ask(x / 255),
        'normalised already': ask((x - 0.5) / 0.25),
        'NaN': ask(x * float('nan')),
        'PIL image': ask(Image.fromarray(image[0])),
        'numpy array': ask(image),
        'path': ask('cell.png'),
        'one picture without a batch': ask(x[0]),
        'channels last': ask(x.permute(0, 2, 3, 1)),
        'gray': ask(x[:, :1]),
        'gray, three means': ask(x[:, :1], mean=(0.5,) * 3),
        'mean of 0 to 255': ask(x, mean=(123.7, 116.3, 103.5)),
        'mean of two numbers': ask(x, mean=(0.5, 0.5)),
        'std of 0': ask(x, std=(0.2, 0, 0.2)),
        'channel 3 of 1': lambda: score(model, LogitContrast(target.region, 3), x),
        'one step': lambda: integrated_gradients(model, target, x, steps=1),
        'a function as model': lambda: score(len, target, x),
        'a state_dict as model': lambda: score(model.state_dict(), target, x),
    }


def refusal(ask) -> str:
    try:
        ask()
    except BloodUNetError as error:
        return str(error)
    return ''


LIBRARIES = {
    'segmentation_models.pytorch': of_smp,
    'MONAI': of_monai,
    'torchvision': of_torchvision,
    'by hand': by_hand,
}


def main(only: str = ''):
    """`only`: the library to try again, the rows of the others kept as they are."""
    cells, path = phantom(2, 64, 0), RESULTS / 'foreign_models.json'
    x, kept = to_tensor(cells.images), json.loads(path.read_text())['rows'] if path.exists() else []
    refused = {name: refusal(ask) for name, ask in pictures(cells, x).items()}
    for library in [only] if only else LIBRARIES:
        rows = []
        for name, build in LIBRARIES[library]().items():
            rows.append(dict(library=library, model=name) | try_model(build, cells, x))
            print(library, name, rows[-1]['said'], rows[-1]['sentence'][:90], file=sys.stderr)
        kept = [row for row in kept if row['library'] != library] + rows
        kept.sort(key=lambda row: list(LIBRARIES).index(row['library']))
        packages = ('torch', 'segmentation_models_pytorch', 'monai', 'torchvision', 'numpy')
        write_json(dict(rows=kept, pictures=refused, versions=versions(packages)), path)


if __name__ == '__main__':
    typer.run(main)
