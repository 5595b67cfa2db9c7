"""The protocols of chapter 10 that take longer than a notebook should; results/NAME.json.

python bench/anomaly.py [--protocol blasts]     # or haematological, leave-one-out

`blasts`: ALL-IDB2, reference from half of its healthy cells, 200 times; seconds. The other two train some
hundred small networks in data/anomaly, hours; a run that is stopped goes on.
"""

from pathlib import Path

import typer

from blood_unet.anomaly import protocol_table, run_protocol


def main(protocol: str = 'blasts'):
    top = Path(__file__).parent
    networks = top.parent / 'data' / 'anomaly' / 'networks'
    print(protocol_table(run_protocol(protocol, top / 'results', networks)).round(3).to_string())


if __name__ == '__main__':
    typer.run(main)
