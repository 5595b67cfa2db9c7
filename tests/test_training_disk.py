"Training against disks: what cannot be written is said in words, and what was written stays whole."

import errno
import os

import pytest
import torch

from blood_unet import files
from blood_unet.core import ParameterError, sha256_arrays
from blood_unet.data import phantom
from blood_unet.model import BloodUNet
from blood_unet.training import TrainingConfig, fit


def train(folder, widths=(4, 8), epochs=3):
    "Train a small network in `folder`; the SHA-256 of its final weights."
    torch.manual_seed(0)
    network = BloodUNet(widths=widths, input_size=28)
    fit(
        network,
        phantom(32, size=28, seed=0),
        None,
        TrainingConfig(epochs=epochs, batch_size=16),
        folder,
        device='cpu',
        progress=False,
    )
    return sha256_arrays(*(t.numpy() for t in network.state_dict().values()))


def test_read_only_folder(read_only):
    with pytest.raises(ParameterError, match='expected a folder that can be written'):
        train(read_only)


def test_full_disk(small_disk):
    with pytest.raises(ParameterError, match='expected a folder on a disk with room'):
        train(small_disk, widths=(16, 32, 64))
    assert not [path for path in small_disk.rglob('.*') if path.is_file()], 'no half-written file is left'


@pytest.mark.parametrize('broken', range(1, 7))
def test_a_disk_that_fills_up_costs_no_epoch_but_the_last(tmp_path, monkeypatch, broken):
    calm, count = train(tmp_path / 'calm'), 0

    def fsync(handle):
        nonlocal count
        count += 1
        if count > broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'fsync', fsync)
        with pytest.raises(ParameterError, match='No space left'):
            train(tmp_path / 'full')
    assert not [path for path in (tmp_path / 'full').rglob('.*')]
    assert train(tmp_path / 'full') == calm
