"""The protocols of chapter 10 that take longer than a notebook should; results/NAME.json.

python bench/anomaly.py [--protocol blasts]

`blasts`: ALL-IDB2, reference from half of its healthy cells, 200 times. Seconds.
"""

from pathlib import Path

import typer

from blood_unet.anomaly import protocol_table, run_protocol


def main(protocol: str = 'blasts'):
    print(protocol_table(run_protocol(protocol, Path(__file__).parent / 'results')).round(3).to_string())


if __name__ == '__main__':
    typer.run(main)
