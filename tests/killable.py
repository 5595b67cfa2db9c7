"A small training, explanation and protocol, that a test starts in a process of its own, to be killed."

import threading

import torch
from tqdm.auto import tqdm

from blood_unet.core import sha256_arrays, sha256_file
from blood_unet.data import phantom
from blood_unet.targets import HardDice
from blood_unet.coalitions import cell_parts, make_game
from blood_unet.model import BloodUNet
from blood_unet.protocols import run_protocol
from blood_unet.images import to_tensor
from blood_unet.shapley import all_coalition_values
from blood_unet.training import TrainingConfig, fit

tqdm.set_lock(threading.RLock())  # tqdm's own is shared with forked processes: a killed one may hold it


def train(folder, result, started=None):
    """Train in `folder`, from its state if there is one, and put the SHA-256 of the final weights on the
    queue `result`.
    """
    torch.set_num_threads(1)
    cells = phantom(48, size=28, seed=0)
    torch.manual_seed(0)
    model = BloodUNet(widths=(4, 8, 16), input_size=28)
    if started is not None:
        started.set()
    fit(
        model,
        cells,
        cells.subset(range(16)),
        TrainingConfig(epochs=8, batch_size=16, seed=1),
        folder,
        device='cpu',
        progress=False,
    )
    result.put(sha256_arrays(*(t.numpy() for t in model.state_dict().values())))


def explain(folder, result, started=None):
    """Play all coalitions of the parts of phantom cells in `folder`, from its chunks if there are any, and
    put the SHA-256 of the values on the queue `result`.
    """
    torch.set_num_threads(1)
    cells, model = phantom(60, size=28, seed=0), BloodUNet.from_pretrained('phantom-28')
    cells = cells.subset(cells.nucleus.any((1, 2)))
    game = make_game(to_tensor(cells.images), cell_parts(cells.nucleus, cells.cell, cells.red))
    if started is not None:
        started.set()
    values = all_coalition_values(
        game, model, HardDice(torch.from_numpy(cells.nucleus)), folder, chunk=2, progress=False
    )
    result.put(sha256_arrays(values))


def protocol(folder, result, started=None):
    """Hold two classes of phantom cells out with networks in `folder`, from those that are there, and put the
    SHA-256 of the results file on the queue `result`.
    """
    torch.set_num_threads(1)
    if started is not None:
        started.set()
    few = dict(limit=64, kinds=('blood-unet',), device='cpu', progress=False)
    run_protocol('haematological', folder, dataset='phantom', trial=True, **few)
    result.put(sha256_file(folder / 'haematological.json'))
