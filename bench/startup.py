"""What starting costs: the command's help, an import, one picture segmented, beside torch and its peers.

python bench/startup.py

Each is a process of its own, in alternating rounds, so that a busy machine slows all of them; medians, and
what lies beyond `import torch` in the same round. Peers: MONAI and segmentation_models.pytorch, imported.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from blood_unet.core import versions
from blood_unet.data import phantom
from blood_unet.files import write_json

RESULTS = Path(__file__).parent / 'results'
LIMITS = {'blood-unet --help': 1.0, 'import blood_unet.model': 0.8, 'blood-unet segment, one picture': 2.0}


def commands(folder) -> dict:
    "What is timed: a name to the arguments of a process."
    Image.fromarray(phantom(1, size=64, seed=1).images[0]).save(folder / 'x.png')
    script = Path(sys.executable).parent / 'blood-unet'
    load = {
        f'import {name}': [sys.executable, '-c', f'import {name}']
        for name in ('torch', 'blood_unet.model', 'monai.networks.nets', 'segmentation_models_pytorch')
    }
    segment = [script, 'segment', folder / 'x.png', '--out', folder / 'out', '--device', 'cpu']
    return {'blood-unet --help': [script, '--help'], **load, 'blood-unet segment, one picture': segment}


def main(rounds: int = 7):
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        for turn in range(rounds + 1):  # the first round warms the disk's cache
            for name, command in todo.items():
                start = time.perf_counter()
                subprocess.run(list(map(str, command)), check=True, capture_output=True)
                if turn:
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
    torch = np.array(seconds['import torch'])
    rows = {
        name: dict(
            seconds=round(float(np.median(taken)), 3),
            beyond_torch=round(float(np.median(np.array(taken) - torch)), 3),
            lowest=round(min(taken), 3),
            highest=round(max(taken), 3),
        )
        for name, taken in seconds.items()
    }
    for name, limit in LIMITS.items():
        rows[name] |= dict(limit=limit, limit_is='seconds' if name.endswith('--help') else 'beyond_torch')
    for name, row in rows.items():
        print(f'{name:34s}', row)
    write_json(dict(rounds=rounds, rows=rows, versions=versions()), RESULTS / 'startup.json')


if __name__ == '__main__':
    typer.run(main)
