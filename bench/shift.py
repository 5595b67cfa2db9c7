"""What corruptions and other laboratories do; results/corruptions.json and laboratories_anomaly.json.

python bench/shift.py laboratories             # minutes
python bench/shift.py corruptions [--each 12]  # a quarter of an hour; a run that is stopped goes on

The eleven corruptions of MedMNIST-C for BloodMNIST at five severities on test cells at 64 px, each cell
beside itself; and healthy cells of three other laboratories beside BloodMNIST's and beside their own.
"""

from pathlib import Path

import torch
import typer

from blood_unet.files import write_json
from blood_unet.shift import corruption_table, corruptions_protocol, laboratories_protocol

TOP = Path(__file__).parent
app = typer.Typer(no_args_is_help=True)


@app.command()
def corruptions(each: int = 12, seed: int = 0):
    "Every corruption and severity, for so many test cells of each class."
    torch.set_num_threads(1)
    found = corruptions_protocol(
        each, seed, TOP.parent / 'data' / 'anomaly' / 'corruptions', 'bloodmnist', 'cpu'
    )
    write_json(found, TOP / 'results' / 'corruptions.json')
    print(corruption_table(found).round(3).to_string())


@app.command()
def laboratories(n: int = 400, splits: int = 200, seed: int = 0):
    "Healthy cells of the expert sets, and n test cells of BloodMNIST."
    torch.set_num_threads(1)
    found = laboratories_protocol(n, splits, seed, 'cpu')
    write_json(found, TOP / 'results' / 'laboratories_anomaly.json')
    for name, row in found['laboratories'].items():
        print(name, {k: v['mean'] for k, v in row.items() if isinstance(v, dict)})


if __name__ == '__main__':
    app()
