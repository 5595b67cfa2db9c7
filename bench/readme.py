"""Write the results in README.md from bench/results and the numbers beside the bundled weights.

python bench/readme.py
"""

import json
from pathlib import Path

import numpy as np

from blood_unet.files import atomic_path, read_results
from blood_unet.model import BUNDLED
from blood_unet.scorecard import in_words

README = Path(__file__).parent.parent / 'README.md'
MARKS = {name: (f'<!-- {name} -->\n', f'<!-- end of {name} -->') for name in ('results', 'explanations')}
SETS = dict(jiangxi='Jiangxi', cellavision='CellaVision', all_idb2='ALL-IDB2')


def say(row):
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def dice_rows():
    "Lines of the Dice table: what, mask, and one column a set."
    segment, adapted, tuned = (read_results(n)['sets'] for n in ('segment', 'adaptation', 'finetuning'))
    rows = []
    for mask in ('nucleus', 'cell'):
        for label, key in (
            ('recipe, no learning', 'recipe'),
            ('64 px network, eight views', 'network'),
            ('`blood-unet segment`: both', 'both'),
        ):
            rows.append([label, mask, *(say(segment[s]['report'][mask][key]) for s in SETS)])
        for label, ending in (
            ('network adapted without an expert', ''),
            ('adapted, settled with the recipe', ', settled'),
        ):
            rows.append([label, mask, *(say(adapted[s][mask + ending]['report']['pupil']) for s in SETS)])
        n = ', '.join(str(row[mask]['n']) for row in (tuned[s] for s in SETS if s in tuned))
        rows.append(
            [
                f'network fine-tuned, cross-validated (n = {n})',
                mask,
                *(say(tuned[s][mask]) if s in tuned else 'not measured' for s in SETS),
            ]
        )
    return rows


def class_rows():
    "Lines of the accuracy table: network, one view, eight views."
    rows = []
    for name in ('blood-unet-28', 'blood-unet-64'):
        test = json.loads((BUNDLED / name / 'measured.json').read_text())['test']
        rows.append(
            [f'`{name}`', *(say(test[view]['accuracy_interval']) for view in ('one view', 'eight views'))]
        )
    seeds = read_results('seeds')
    rows.append(
        [
            f"28 px, {len(seeds['rows']) - 1} seeds: mean, standard deviation",
            *(f"{seeds['mean'][v]:.4f}, {seeds['spread'][v]:.4f}" for v in ('one view', 'eight views')),
        ]
    )
    return rows


def markdown(head, rows):
    return '\n'.join('| ' + ' | '.join(r) + ' |' for r in [head, ['---'] * len(head), *rows])


def table() -> str:
    "Both tables as Markdown."
    n = {s: read_results('segment')['sets'][s]['report']['nucleus']['both']['n'] for s in SETS}
    return (
        markdown(
            ['Dice with experts', 'mask', *(f'{label} (n = {n[s]})' for s, label in SETS.items())],
            dice_rows(),
        )
        + '\n\n'
        + markdown(['accuracy, BloodMNIST test split (n = 3,421)', 'one view', 'eight views'], class_rows())
        + '\n'
    )


def caught() -> list:
    """Lines of the table of measures.

    AUROC against untrained explainers, the least of the trust and of the unseen families, and on real cells
    by target.
    """
    found = read_results('metrics')
    real = [f for f in next(iter(found['auroc'].values())) if f.startswith('real')]
    rows = []
    for measure, verdict in sorted(
        found['verdict'].items(), key=lambda item: (not item[1]['trusted'], item[0])
    ):
        scores = {
            family: row['untrained']
            for family, row in found['auroc'][measure].items()
            if row.get('untrained')
        }

        def least(families):
            return min((scores[f] for f in families if f in scores), key=lambda r: r['mean'], default=None)

        text = [
            say(r) if r else 'no case'
            for r in (least(found['trust']), least(found['unseen']), *(scores.get(f) for f in real))
        ]
        rows.append(
            [
                measure.rstrip('|').replace('|', ', fill '),
                'yes' if verdict['trusted'] else 'no',
                *text,
                hardest(found, measure),
            ]
        )
    head = [
        'measure',
        'trusted',
        'trust families, least',
        'unseen families, least',
        *(f.replace('real: ', 'real cells, ') for f in real),
        'hardest other control',
    ]
    return head, rows


def hardest(found, measure) -> str:
    """The control that was not trained on anything and that a measure tells least from explanations.

    Its name and the mean AUROC over all planted families.
    """
    families = [
        row
        for family, row in found['auroc'][measure].items()
        if family in found['trust'] + found['unseen'] and row['untrained']
    ]
    means = {
        name: np.mean([row[name]['mean'] for row in families])
        for name in ('probability map', 'darkness', 'centre blob', 'edges', 'random')
    }
    name = min(means, key=means.get)
    return f'{name} {means[name]:.3f}'


def named() -> tuple:
    """Lines of the table of naming.

    How often a map names the planted part, the least of the trust and of the unseen families, and how often
    any part where none is planted.
    """
    naming, found = read_results('planted')['naming'], read_results('metrics')

    def least(row, families):
        return say(min((row[f] for f in families), key=lambda r: r['mean']))

    rows = [
        [name, least(row, found['trust']), least(row, found['unseen']), f"{row['none']:.3f}"]
        for name, row in naming.items()
    ]
    return [
        'map',
        'trust families, least',
        'unseen families, least',
        'names one where nothing is planted',
    ], rows


def taught() -> list:
    "Lines of the table of teacher and pupil: what each loses when all but the nucleus is hidden."
    rows = []
    for name, label in (('bloodmnist-28', 'BloodMNIST, 28 px'), ('experts-64', 'expert sets, 64 px')):
        effect = read_results('teacher')['settings'][name]['fills']['nested flat']['effects'][
            'context: everything'
        ]
        rows.append(
            [
                f"{label} (n = {effect['teacher']['n']})",
                *(say(effect[who]) for who in ('teacher', 'thresholds held', 'pupil', 'pupil minus teacher')),
            ]
        )
    return [
        'Dice lost without context',
        'recipe',
        'recipe, its thresholds held',
        'network',
        'network minus recipe',
    ], rows


def explanations() -> str:
    "The tables of what the explanations say, as Markdown."
    rows = next(iter(read_results('metrics')['auroc'].values()))
    n, real = (rows[family]['untrained'] for family in (read_results('metrics')['trust'][0], 'real: nucleus'))
    return (
        markdown(*taught())
        + f"\n\n{in_words(read_results('metrics'))}\n\nAUROC of each measure for telling an explanation from"
        f" an untrained one ({n['networks']} networks a planted family, {n['n']} cells each; one network"
        f" and {real['n']} real cells; 95 % intervals):\n\n"
        + markdown(*caught())
        + "\n\nHow often a map names the part in which the evidence was planted, and any part where nothing"
        " was:\n\n" + markdown(*named()) + '\n'
    )


def main():
    text = README.read_text()
    for name, make in (('results', table), ('explanations', explanations)):
        start, end = MARKS[name]
        before, rest = text.split(start)
        text = before + start + make() + end + rest.split(end)[1]
    with atomic_path(README) as path:
        path.write_text(text)


if __name__ == '__main__':
    main()
