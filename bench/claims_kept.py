"""What the programs claims_*.py share: a bundled network is loaded, a result is kept in results/."""

from pathlib import Path

import torch

from blood_unet.core import sha256_file, versions
from blood_unet.files import write_json
from blood_unet.model import BloodUNet, checkpoint_folder

RESULTS = Path(__file__).parent / 'results'


def load(name: str = 'blood-unet-28'):
    "A bundled network, and what a result says of it."
    torch.set_num_threads(1)
    digest = sha256_file(checkpoint_folder(name) / 'model.safetensors')
    return BloodUNet.from_pretrained(name).eval(), dict(checkpoint=name, sha256=digest)


def keep(name: str, found: dict, seed: int = 0):
    "Write and show a result."
    write_json(found | dict(seed=seed, versions=versions()), RESULTS / f'{name}.json')
    print({k: v for k, v in found.items() if not isinstance(v, list)})
