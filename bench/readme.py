"""Write the table of results in README.md from bench/results and the numbers beside the bundled weights.

    python bench/readme.py
"""
import json
from pathlib import Path

from blood_unet.core import atomic_path, read_results
from blood_unet.model import BUNDLED

README, START, END = Path(__file__).parent.parent/'README.md', '<!-- results -->\n', '<!-- end of results -->'
SETS = dict(jiangxi='Jiangxi', cellavision='CellaVision', all_idb2='ALL-IDB2')


def say(row): return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def dice_rows():
    "Lines of the Dice table: what, mask, and one column a set."
    segment, adapted, tuned = (read_results(n)['sets'] for n in ('segment', 'adaptation', 'finetuning'))
    rows = []
    for mask in ('nucleus', 'cell'):
        for label, key in (('recipe, no learning', 'recipe'), ('64 px network, eight views', 'network'), ('`blood-unet segment`: both', 'both')):
            rows.append([label, mask, *(say(segment[s]['report'][mask][key]) for s in SETS)])
        rows.append(['network adapted without an expert', mask, *(say(adapted[s][mask]['report']['pupil']) for s in SETS)])
        n = ', '.join(str(row[mask]['n']) for row in (tuned[s] for s in SETS if s in tuned))
        rows.append([f'network fine-tuned, cross-validated (n = {n})', mask, *(say(tuned[s][mask]) if s in tuned else 'not measured' for s in SETS)])
    return rows


def class_rows():
    "Lines of the accuracy table: network, one view, eight views."
    rows = []
    for name in ('blood-unet-28', 'blood-unet-64'):
        test = json.loads((BUNDLED/name/'measured.json').read_text())['test']
        rows.append([f'`{name}`', *(say(test[view]['accuracy_interval']) for view in ('one view', 'eight views'))])
    seeds = read_results('seeds')
    rows.append([f"28 px, {len(seeds['rows']) - 1} seeds: mean, standard deviation", *(f"{seeds['mean'][v]:.4f}, {seeds['spread'][v]:.4f}" for v in ('one view', 'eight views'))])
    return rows


def markdown(head, rows): return '\n'.join('| ' + ' | '.join(r) + ' |' for r in [head, ['---']*len(head), *rows])


def table() -> str:
    "Both tables as Markdown."
    n = {s: read_results('segment')['sets'][s]['report']['nucleus']['both']['n'] for s in SETS}
    return (markdown(['Dice with experts', 'mask', *(f'{label} (n = {n[s]})' for s, label in SETS.items())], dice_rows()) + '\n\n'
            + markdown(['accuracy, BloodMNIST test split (n = 3,421)', 'one view', 'eight views'], class_rows()) + '\n')


def main():
    text = README.read_text()
    before, rest = text.split(START)
    with atomic_path(README) as path: path.write_text(before + START + table() + END + rest.split(END)[1])


if __name__ == '__main__':
    main()
