"""The numbers of figures that the claims ledger reads, taken from figures/manifest.json.

python bench/figures.py

A figure is drawn again by whoever runs the book, on his own cells. What the ledger judges is kept here, with
the data and the network of each figure.
"""

import json
from pathlib import Path

from blood_unet.files import write_json

TOP = Path(__file__).parent.parent
ABOUT = ('dataset', 'digest', 'checkpoint', 'size', 'seed', 'versions')


def slope(row) -> dict:
    "A row of the shifted windows, its slope as a mean with its interval."
    return dict(map=row['map'], control=row['control'], n=row['n']) | dict(
        mean=row['slope'], low=row['low'], high=row['high']
    )


def taken(figures: dict) -> dict:
    "The numbers that are read, a figure at a time: interval rows have `mean`, `low`, `high`."
    heat, maps = (figures[name]['numbers'] for name in ('fig5_heatmaps', 'fig6_feature_maps'))
    least, most = heat['spatial_weights']
    return dict(
        fig1_dataset=dict(dice=figures['fig1_dataset']['numbers']['dice']),
        fig3_base_network=figures['fig3_base_network']['numbers'],
        fig4_joint_architecture=figures['fig4_joint_architecture']['numbers'],
        fig5_heatmaps=dict(
            off_centre=[slope(row) for row in heat['off_centre']],
            off_centre_dice=heat['off_centre_dice'],
            class_unchanged=heat['class_unchanged'],
            spatial_weights_span=most - least,
        ),
        fig6_feature_maps=dict(looks=maps['looks'], kinds=maps['kinds']),
    )


def main():
    figures = json.loads((TOP / 'figures' / 'manifest.json').read_text())['figures']
    kept = taken(figures)
    for name, numbers in kept.items():
        numbers['about'] = {key: figures[name][key] for key in ABOUT if key in figures[name]}
    write_json(kept, TOP / 'bench' / 'results' / 'figures.json')


if __name__ == '__main__':
    main()
