"""Models that are not ours: other libraries, answers, number types and pictures, taken rightly or refused."""

import copy
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks import nets
from PIL import Image
from torch import nn

from blood_unet.adapter import ProbabilityWarning, answer_of
from blood_unet.coalitions import make_game, recipe_parts
from blood_unet.controls import CONTROLS
from blood_unet.core import BloodUNetError, ImageError, ParameterError
from blood_unet.data import phantom
from blood_unet.heatmaps import grad_cam, integrated_gradients, saliency
from blood_unet.images import to_tensor, to_uint8
from blood_unet.model import BloodUNet
from blood_unet.scorecard import make_case, scorecard
from blood_unet.shapley import exact_shapley_values, sampled_shapley
from blood_unet.targets import Adapter, ClassLogOdds, HardDice, LogitContrast, frozen_mask, score


def smp_unet():
    return Adapter(
        smp.Unet('resnet18', encoder_weights=None, classes=1),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def monai_unet():
    return Adapter(
        nets.UNet(spatial_dims=2, in_channels=3, out_channels=3, channels=(8, 16, 32), strides=(2, 2)),
        softmax=True,
    )


@pytest.mark.parametrize('build', (smp_unet, monai_unet))
def test_scorecard_of_a_foreign_model(build):
    torch.manual_seed(0)
    model, cells = build().eval(), phantom(2, 64, 0)
    masks = cells.nucleus, cells.cell, cells.red & ~cells.cell
    explainers = {
        'integrated gradients': lambda m, t, x, seed: integrated_gradients(m, t, x, steps=4),
        'random': CONTROLS['random'],
    }
    before = [p.clone() for p in model.parameters()]
    card = scorecard(
        model,
        explainers,
        cells.images,
        masks,
        LogitContrast(torch.from_numpy(cells.nucleus)),
        draws=6,
        steps=3,
    )
    assert set(card.explainer) == set(explainers) and np.isfinite(card.value).all()
    assert (
        len(card.groupby(['metric', 'fill'])) == 5 * 2 + 6 + 2
    )  # five metrics with two fills, six of explainers, forwards and seconds
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters())) and not model.training
    with pytest.raises(ParameterError, match='two images'):
        scorecard(model, explainers, cells.images[:1], None)


# a network with its activation inside explains the same as the network without it


class Ended(nn.Module):
    "A network whose masks and classes go through functions."

    def __init__(self, model, masks=torch.sigmoid, classes=lambda t: t.softmax(1)):
        super().__init__()
        self.model, self.masks, self.classes = model, masks, classes

    def forward(self, x):
        masks, classes = self.model(x)
        return self.masks(masks), self.classes(classes)


@pytest.fixture(scope='module')
def cells():
    return phantom(4, 28, 3)


@pytest.fixture(scope='module')
def x(cells):
    return to_tensor(cells.images)


@pytest.fixture(scope='module')
def network():
    return BloodUNet.from_pretrained('phantom-28').eval()


@pytest.fixture(scope='module')
def region(cells):
    return torch.from_numpy(cells.nucleus)


def quiet(function, *args, **kwargs):
    "What a function gives, and the sentences of its `ProbabilityWarning`s."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = function(*args, **kwargs)
    return found, [str(w.message) for w in caught if issubclass(w.category, ProbabilityWarning)]


def likeness(a, b) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize('wrap', (lambda m: m, Adapter), ids=('bare', 'adapter'))
def test_a_sigmoid_inside_changes_no_explanation(network, x, cells, region, wrap):
    squashed, parts = wrap(Ended(network)), recipe_parts(cells.images)
    game = make_game(x, parts)
    for target in (HardDice(region), HardDice(frozen_mask(network, x))):
        true = exact_shapley_values(game, network, target)
        assert np.abs(true).max() > 0.1  # there is something to lose
        found, _ = quiet(exact_shapley_values, game, squashed, target)
        assert np.abs(found - true).max() < 1e-6  # masks are equal in every pixel
        found, _ = quiet(sampled_shapley, game, squashed, target, 32)
        true = sampled_shapley(game, network, target, 32)
        assert np.abs(found.values - true.values).max() < 1e-6
    contrast = LogitContrast(region)
    cam, same = (quiet(grad_cam, m, contrast, x, layer=network.gate)[0] for m in (network, squashed))
    assert likeness(cam, same) > 0.999  # a logit above 16.6 is cut, and its gradient with it
    slope, same = (quiet(integrated_gradients, m, contrast, x, steps=8)[0] for m in (network, squashed))
    assert likeness(slope, same) > 0.99


def test_the_models_own_mask_is_found_behind_a_sigmoid(network, x):
    found, said = quiet(frozen_mask, Ended(network), x)
    assert torch.equal(found, frozen_mask(network, x)) and len(said) == 1
    assert 'mask (sigmoid), class (softmax)' in said[0] and 'cut at 16.6' in said[0]
    assert "answers='probabilities'" in said[0]


@pytest.mark.parametrize('end', ('softmax', 'log_softmax'))
def test_a_softmax_inside_a_classifier(network, x, end):
    inside = Ended(network, classes=lambda t: getattr(t, end)(1))
    for k in range(8):
        found, _ = quiet(score, inside, ClassLogOdds(k), x)
        assert np.abs(found - score(network, ClassLogOdds(k), x)).max() < 1e-3  # digits of a float32 p


@pytest.mark.parametrize('n', (1, 4))
def test_a_classifier_with_one_logit_and_a_sigmoid(x, n):
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    found, said = quiet(score, nn.Sequential(bare, nn.Sigmoid()), ClassLogOdds(0), x[:n])
    assert len(said) == 1 and np.abs(found - score(bare, ClassLogOdds(0), x[:n])).max() < 1e-5
    bare[-1].bias.data.fill_(0.5 - bare(x).mean().item())  # logits near .5, as hard to tell as can be
    found, said = quiet(score, bare, ClassLogOdds(0), x[:n])
    assert not said and np.abs(found - bare(x[:n])[:, 0].detach().numpy()).max() < 1e-6


def test_softmax_masks_are_their_log_odds_said_or_not(x):
    torch.manual_seed(0)
    bare = nn.Conv2d(3, 4, 3, padding=1)
    for inside in (nn.Softmax(1), nn.LogSoftmax(1)):
        for said in (False, True):
            model = Adapter(nn.Sequential(bare, inside), softmax=said)
            found, _ = quiet(model, x)
            true = Adapter(bare, softmax=True)(x).mask_logits
            assert (found.mask_logits - true).abs().max() < 1e-4


def test_the_decision_is_made_once(network, x):
    squashed = Ended(network)
    _, first = quiet(score, squashed, LogitContrast(frozen_mask(network, x)), x)
    for pictures in (0 * x, x, 1 - x):  # as hidden pictures may be
        found, again = quiet(frozen_mask, squashed, pictures)
        assert len(first) == 1 and not again and torch.equal(found, frozen_mask(network, pictures))
    _, third = quiet(frozen_mask, copy.deepcopy(squashed), x)  # another model
    assert len(third) == 1


def hardly_trained():
    "Logits from .4 to .6."
    torch.manual_seed(0)
    model = nn.Conv2d(3, 1, 3, padding=1)
    nn.init.normal_(model.weight, std=0.01)
    nn.init.constant_(model.bias, 0.5)
    return model


def test_logits_that_lie_in_zero_to_one_stay_logits(x, region):
    for model in (hardly_trained(), nn.Sequential(hardly_trained(), nn.ReLU())):
        true = model(x).detach()
        assert 0 < true.min() and true.max() < 1
        for frozen in (False, True):  # weights with and without gradient
            for p in model.parameters():
                p.requires_grad_(not frozen)
            for own in (copy.deepcopy(model), Adapter(copy.deepcopy(model))):
                (found, _), said = quiet(answer_of, own, x)
                assert not said and torch.equal(found.detach(), true)
    product = Then(hardly_trained(), lambda t: 1.0 * t)  # what made them cannot be told
    _, said = quiet(score, product, LogitContrast(region), x)
    assert len(said) == 1 and "answers='logits'" in said[0]
    found, said = quiet(Adapter(product, answers='logits'), x)
    assert not said and torch.equal(found.mask_logits, product(x))


class Then(nn.Module):
    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x):
        return self.function(self.model(x))


def test_what_was_taken_for_probabilities_and_is_not_is_refused():
    grow = Then(nn.Identity(), lambda t: t[:, :1] * 1.0)
    quiet(answer_of, grow, torch.rand(1, 3, 8, 8))
    with pytest.raises(ParameterError, match="Adapter\\(model, answers='logits'\\)"):
        answer_of(grow, 3 * torch.rand(1, 3, 8, 8))


# number types


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16, torch.float64))
def test_number_types_agree_with_float32(network, x, cells, region, dtype):
    own, pictures = copy.deepcopy(network).to(dtype), x.to(dtype)
    game, digit = make_game(x, recipe_parts(cells.images)), torch.finfo(dtype).eps
    target, kind = LogitContrast(region), ClassLogOdds(0)
    for model, images in ((own, x), (own, pictures), (network, pictures), (Adapter(own), pictures)):
        assert (frozen_mask(model, images) == frozen_mask(network, x)).double().mean() > 0.99
        for t in (target, kind):  # logits reach 50: a digit of each layer's numbers
            assert np.abs(score(model, t, images) - score(network, t, x)).max() < 1e-3 + 200 * digit
        assert integrated_gradients(model, target, images, steps=4).dtype == np.float64
        assert (
            likeness(grad_cam(model, target, images, network_gate(model)), grad_cam(network, target, x))
            > 0.98
        )
    values = exact_shapley_values(make_game(pictures, game.players), own, HardDice(region))
    assert np.abs(values - exact_shapley_values(game, network, HardDice(region))).max() < 1e-3 + 20 * digit
    assert all(p.dtype == dtype for p in own.parameters())


def network_gate(model):
    return getattr(model, 'model', model).gate


# pictures, options and models that do not fit: each says what to do

WRONG = {
    'uint8 tensor': (lambda x: (255 * x).byte(), 'x.float\\(\\) / 255'),
    '0 to 255': (lambda x: 255 * x, 'divide by the largest value'),
    'divided twice': (lambda x: x / 255, 'divided by 255 twice'),
    'half, divided twice': (lambda x: (x / 255).half(), 'divided by 255 twice'),
    'normalised': (lambda x: (x - 0.5) / 0.25, 'undo the normalisation'),
    'from -1 to 1': (lambda x: 2 * x - 1, 'undo the normalisation'),
    'NaN': (lambda x: x.log().sqrt(), 'NaN or infinite'),
    'infinite': (lambda x: x / 0, 'NaN or infinite'),
    'array': (lambda x: x.numpy(), 'a ndarray as images'),
    'uint8 array': (lambda x: to_uint8(x), 'a ndarray as images'),
    'PIL': (lambda x: Image.fromarray(to_uint8(x)[0]), 'as images'),
    'path': (lambda x: Path('cell.png'), 'a PosixPath as images'),
    'text': (lambda x: 'cell.png', 'a str as images'),
    'list': (lambda x: list(x), 'a list as images'),
    'None': (lambda x: None, 'a NoneType as images'),
    'one': (lambda x: x[0], 'x\\[None\\] for one'),
    'five dimensions': (lambda x: x[None], 'images of shape'),
    'channels last': (lambda x: x.permute(0, 2, 3, 1), 'channels come first'),
    'whole numbers': (lambda x: x.round().long(), 'images of torch.int64'),
    'gray': (lambda x: x[:, :1], 'takes 3 channels, these have 1'),
    'four channels': (lambda x: torch.cat([x, x[:, :1]], 1), 'takes 3 channels, these have 4'),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_pictures_are_refused_on_every_path(x, cells, region, name):
    change, why = WRONG[name]
    wrong, model, target = change(x), nn.Conv2d(3, 1, 3, padding=1), LogitContrast(region)
    parts = recipe_parts(cells.images)
    asks = [
        lambda: score(model, target, wrong),
        lambda: frozen_mask(model, wrong),
        lambda: integrated_gradients(model, target, wrong, steps=4),
        lambda: saliency(model, target, wrong),
        lambda: grad_cam(model, target, wrong, layer=model),
    ]
    if 'channels, these' not in why:  # how many, a model says
        asks += [lambda: make_game(wrong, parts)]
        if not isinstance(wrong, np.ndarray):  # uint8 arrays are what it takes
            asks += [lambda: make_case(model, wrong, parts, target)]
    for ask in asks[:4] + asks[5:]:
        with pytest.raises(ParameterError, match=why):
            ask()
    with pytest.raises(ParameterError):  # a bare convolution has no layer to name
        asks[4]()


def test_pictures_that_are_right_are_taken(x, region):
    "What was answered rightly stays so: truly dark pictures, black ones, cubic resampling, none at all."
    model, target = nn.Conv2d(3, 1, 3, padding=1), LogitContrast(region)
    dark = (x > 0.8).float() / 255  # bytes of 0 and 1
    for pictures in (dark, dark.half(), 0 * x, x.clamp(0, 1) * 1.2 - 0.1, 0.02 * x):
        assert np.isfinite(score(model, target, pictures)).all()
    assert score(model, LogitContrast(region[:1]), x[:0]).shape == (0,)
    assert frozen_mask(model, x[:0]).shape == (0, 28, 28)
    gray = score(nn.Conv2d(1, 1, 3, padding=1), target, x[:, :1])  # a model of gray pictures
    assert gray.shape == (4,)
    assert score(Adapter(nn.Conv2d(1, 1, 3, padding=1), 0.5, 0.2), target, x[:, :1]).shape == (4,)


def test_to_tensor_takes_bytes_only(cells, x):
    for same in (cells.images.astype(float), cells.images.astype(np.int64), torch.from_numpy(cells.images)):
        assert torch.equal(to_tensor(same), x)
    for wrong in (
        cells.images / 255,
        cells.images[0],
        Image.fromarray(cells.images[0]),
        cells.images * 300.0,
    ):
        with pytest.raises(ImageError, match='expected uint8 images'):
            to_tensor(wrong)


OPTIONS = {
    'one step': (lambda m, t, x: integrated_gradients(m, t, x, steps=1), 'got steps=1'),
    'no step': (lambda m, t, x: integrated_gradients(m, t, x, steps=0), 'got steps=0'),
    'half a step': (lambda m, t, x: integrated_gradients(m, t, x, steps=2.5), 'got steps=2.5'),
    'no sample': (lambda m, t, x: saliency(m, t, x, samples=0), 'got samples=0'),
    'no batch': (lambda m, t, x: score(m, t, x, batch_size=0), 'got batch_size=0'),
    'batch -1': (lambda m, t, x: frozen_mask(m, x, batch_size=-1), 'got batch_size=-1'),
    'baseline 255': (lambda m, t, x: integrated_gradients(m, t, x, 255 * x, 4), 'a baseline from'),
    'baseline array': (lambda m, t, x: integrated_gradients(m, t, x, x.numpy(), 4), 'a ndarray as baseline'),
    'channel 5': (lambda m, t, x: frozen_mask(m, x, 5), 'got channel 5; expected one of 1 masks'),
    'channel -2': (lambda m, t, x: score(m, LogitContrast(t.region, -2), x), 'got channel -2'),
    'channel .5': (lambda m, t, x: frozen_mask(m, x, 0.5), "got channel=0.5"),
    'layer': (lambda m, t, x: grad_cam(m, t, x, layer='nowhere'), "got layer='nowhere'"),
    'donors 255': (lambda m, t, x: make_game(x, recipe_parts(to_uint8(x)), donors=255 * x), 'images from'),
    'parts of floats': (lambda m, t, x: recipe_parts(x), 'give to_uint8 of a tensor'),
    'function': (lambda m, t, x: score(torch.sigmoid, t, x), 'as model; expected a torch module'),
    'weights': (lambda m, t, x: frozen_mask(m.state_dict(), x), 'got a OrderedDict as model'),
    'path': (lambda m, t, x: grad_cam('net.pt', t, x), 'got a str as model'),
    'mean 255': (lambda m, t, x: Adapter(m, (124, 116, 104)), 'divide them by 255'),
    'std 255': (lambda m, t, x: Adapter(m, 0, (58.4, 57.1, 57.4)), 'divide them by 255'),
    'mean words': (lambda m, t, x: Adapter(m, 'imagenet'), "got mean='imagenet'"),
    'std 0': (lambda m, t, x: Adapter(m, 0, 0), 'no std of 0'),
    'two means': (lambda m, t, x: Adapter(m, (0.5, 0.5), 1)(x), '3 channels for 2 means'),
    'answers': (lambda m, t, x: Adapter(m, answers='odds'), "got answers='odds'"),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_wrong_options_are_refused(x, region, name):
    ask, why = OPTIONS[name]
    with pytest.raises(BloodUNetError, match=re.escape(why)):
        ask(nn.Sequential(nn.Conv2d(3, 1, 3, padding=1)), LogitContrast(region), x)


def two(t):
    return t, t


MODELS = {  # a function of mask logits: the shape that is taken, or the reason why not
    'dict out': (lambda t: dict(out=t, aux=t), True),
    'dict logits': (lambda t: dict(logits=t, loss=None), True),
    'dict of other names': (lambda t: dict(seg=t, label=t.mean((2, 3))), True),
    'object': (lambda t: SimpleNamespace(logits=t), True),
    'list': (lambda t: [t], True),
    'bool': (lambda t: t > 0, True),
    'whole numbers': (lambda t: (t > 0).long(), True),
    'two masks': (two, '[(4, 1, 28, 28), (4, 1, 28, 28)]'),
    'dict of two masks': (lambda t: dict(a=t, b=t), 'named a, b'),
    'label map': (lambda t: (t > 0).long()[:, 0], '(4, 28, 28) of torch.int64'),
    'volume': (lambda t: t[:, :, None], '(4, 1, 1, 28, 28)'),
    'array': (lambda t: t.detach().numpy(), "['ndarray']"),
    'nothing': (lambda t: None, "['NoneType']"),
    'NaN': (lambda t: t * float('nan'), 'got masks with NaN from the model'),
    'other size': (lambda t: t[..., ::2, ::2], 'F.interpolate'),
    'its own error': (lambda t: t.view(3, 7), 'raises RuntimeError (shape '),
    'classes only': (lambda t: t.mean((2, 3)), 'a model without masks'),
}


@pytest.mark.parametrize('name', MODELS)
def test_models_that_answer_otherwise(x, region, name):
    function, expected = MODELS[name]
    torch.manual_seed(0)
    bare, target = nn.Conv2d(3, 1, 3, padding=1), HardDice(region)
    for model in (Then(bare, function), Adapter(Then(bare, function))):
        if expected is True:
            assert np.array_equal(score(model, target, x), score(bare, target, x))
        else:
            with pytest.raises(ParameterError, match=re.escape(expected)):
                score(model, target, x)


def test_nan_in_weights_is_named(x, region):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1))
    model[1].weight.data[0, 0] = float('nan')
    for ask in (lambda: frozen_mask(model, x), lambda: integrated_gradients(model, HardDice(region), x)):
        with pytest.raises(ParameterError, match='the first is 1.weight'):
            ask()


PACKED = {
    'scripted': torch.jit.script,
    'traced': lambda m: torch.jit.trace(m, torch.rand(1, 3, 28, 28)),
    'compiled': lambda m: torch.compile(m, backend='eager'),
    'DataParallel': nn.DataParallel,
    'training': lambda m: m.train(),
    'deep copy': copy.deepcopy,
}


@pytest.mark.parametrize('end', (nn.Identity(), nn.Sigmoid()), ids=('logits', 'sigmoid'))
@pytest.mark.parametrize('name', PACKED)
def test_packed_models_answer_as_they_do_bare(x, cells, region, name, end):
    torch.manual_seed(0)
    inner = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    ).eval()
    target, game = LogitContrast(region), make_game(x, recipe_parts(cells.images))
    true = exact_shapley_values(game, inner, target), integrated_gradients(inner, target, x, steps=4)
    packed = PACKED[name](nn.Sequential(*inner, end))
    before = packed.training
    values, said = quiet(exact_shapley_values, game, packed, target)
    maps, again = quiet(integrated_gradients, packed, target, x, steps=4)
    assert len(said) == isinstance(end, nn.Sigmoid) and not again and packed.training == before
    assert np.abs(values - true[0]).max() < 1e-5 and np.abs(maps - true[1]).max() < 1e-5
    if name in ('scripted', 'traced'):
        with pytest.raises(ParameterError, match='cannot be watched'):
            grad_cam(packed, target, x, layer='0')
