"""A training in two processes, started by tests/test_processes.py.

Each writes its final weights' digest to a file of its own.
"""

import json
import os
import sys
from pathlib import Path

import torch

from blood_unet.core import sha256_arrays
from blood_unet.data import phantom
from blood_unet.model import BloodUNet
from blood_unet.training import TrainingConfig, fit

if __name__ == '__main__':
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, cells = BloodUNet(widths=(4, 8), input_size=28), phantom(64, size=28, seed=0)
    history = fit(
        model, cells, None, TrainingConfig(epochs=3, batch_size=16), device='cpu', devices=2, progress=False
    )
    digest = sha256_arrays(*(p.detach().numpy() for p in model.parameters()))
    Path(sys.argv[1], f'{os.getpid()}.json').write_text(
        json.dumps(dict(digest=digest, loss=history.loss.tolist()))
    )
