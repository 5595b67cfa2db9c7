"""The protocols of chapter 10 that take longer than a notebook should; results/NAME.json.

python bench/anomaly.py [--protocol blasts]     # or haematological, leave-one-out
python bench/anomaly.py --protocol haematological --size 64     # by the rule that was chosen at 28 px

`blasts`: ALL-IDB2, reference from half of its healthy cells, 200 times; seconds. The other two train some
hundred small networks in data/anomaly, hours; a run that is stopped goes on. `--kinds blood-unet` leaves the
ResNet-18 of the peers out, and with it nine tenths of the time.
"""

from pathlib import Path

import typer

from blood_unet.files import read_results
from blood_unet.held_out import KINDS
from blood_unet.protocols import protocol_table, run_protocol


def main(protocol: str = 'blasts', size: int = 28, seeds: int = 3, kinds: str = ','.join(KINDS)):
    top, asked = Path(__file__).parent, {}
    if protocol != 'blasts':
        networks = top.parent / 'data' / 'anomaly' / 'networks'
        asked = dict(networks=networks, size=size, seeds=seeds, kinds=tuple(kinds.split(',')))
    if protocol == 'haematological' and size == 28:
        asked['controls'] = ('labels', 'masks')
    if size != 28:
        asked['chosen'] = read_results(protocol)['groups'][0]['chosen']
    found = run_protocol(protocol, top / 'results', **asked)
    print(protocol_table(found).round(3).to_string())


if __name__ == '__main__':
    typer.run(main)
