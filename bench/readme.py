"""Write the tables of README.md and of bench/README.md, from bench/results and what lies beside the weights.

python bench/readme.py
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blood_unet.files import atomic_path, read_results
from blood_unet.model import BUNDLED
from blood_unet.shift import corruption_table

TOP = Path(__file__).parent.parent
HOME, PAGE = TOP / 'README.md', TOP / 'bench' / 'README.md'
SETS = dict(jiangxi='Jiangxi', cellavision='CellaVision', all_idb2='ALL-IDB2')
PLACES = dict(
    home='BloodMNIST test',
    jiangxi='Jiangxi',
    cellavision='CellaVision',
    bccd='BCCD',
    all_idb2='ALL-IDB2',
)


def say(row):
    "A mean and its interval, in three digits."
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def overlap(row):
    "The same in two digits."
    return f"{row['mean']:.2f} ({row['low']:.2f}-{row['high']:.2f})"


def percent(row):
    "A share in percent with its interval: one decimal from 200 cells on."
    digits = int(row['n'] >= 200)
    mean, low, high = (f'{100 * row[k]:.{digits}f}' for k in ('mean', 'low', 'high'))
    return f'{mean} % ({low}-{high})'


def rest(row) -> dict:
    "The share of all others."
    return dict(mean=1 - row['mean'], low=1 - row['high'], high=1 - row['low'], n=row['n'])


def markdown(head, rows):
    return '\n'.join('| ' + ' | '.join(r) + ' |' for r in [head, ['---'] * len(head), *rows])


# README.md


def reach() -> str:
    "What `blood-unet segment` reaches, at home and elsewhere, as Markdown."
    named, outlined = read_results('laboratories')['sets'], read_results('segment')['sets']
    rows = []
    for place, label in PLACES.items():
        masks = outlined[place]['report'] if place in outlined else {}
        row = named[place]['row'] if place in named else {}
        n = [
            *([f"{named[place]['n']:,} cells"] if row else []),
            *([f"{masks['nucleus']['both']['n']} outlines"] if masks else []),
        ]
        rows.append(
            [
                f"{label}: {', '.join(n)}",
                *(overlap(masks[m]['both']) if masks else 'no expert' for m in ('nucleus', 'cell')),
                *(percent(row[k]) if row else 'other classes' for k in ('eight', 'five')),
                *(percent(row[k]) if row and row[k] else '-' for k in ('certain', 'wrong_of_certain')),
            ]
        )
    head = [
        'cells of',
        'nucleus',
        'whole cell',
        'right class (of 8)',
        'right class (of 5)',
        'class certain',
        'wrong, of the certain',
    ]
    return markdown(head, rows) + '\n'


# bench/README.md: outlines and classes


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
            ('adapted, combined with the recipe', ', settled'),
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


def results() -> str:
    "The table of Dice and that of accuracy, as Markdown."
    n = {s: read_results('segment')['sets'][s]['report']['nucleus']['both']['n'] for s in SETS}
    dice = markdown(
        ['Dice with experts', 'mask', *(f'{label} (n = {n[s]})' for s, label in SETS.items())], dice_rows()
    )
    n = read_results('seeds')['n']
    accuracy = markdown(
        [f'accuracy, BloodMNIST test split (n = {n:,})', 'one view', 'eight views'], class_rows()
    )
    return f'{dice}\n\n{accuracy}\n'


def own_laboratory() -> str:
    "The class after `blood-unet adapt`, by what was given, as Markdown."
    found = read_results('own_laboratory')['sets']
    rows = []
    for place, row in ((name, found[name]) for name in PLACES if name in found):
        given = {'nothing': row['before_of_not_drawn']}
        given |= {f'{k} labels a class': numbers for k, numbers in row['labels'].items()}
        given['5, settings of the other two'] = row['left_out']
        keys = ('eight', 'five', 'five_balanced', 'certain', 'wrong_of_certain')
        rows += [[PLACES[place], what, *(say(numbers[k]) for k in keys)] for what, numbers in given.items()]
        if 'without_doubted' in row:
            sound = row['without_doubted']['labels'].items()
            name = f'{PLACES[place]} without doubted labels'
            rows += [
                [name, f'{k} labels a class', *(say(numbers[key]) for key in keys)] for k, numbers in sound
            ]
    head = ['cells of', 'learnt from', 'right, of eight', 'of five', 'each class equally', 'certain']
    draws = markdown([*head, 'wrong of the certain'], rows)
    rows = [
        [PLACES[place], *(f'{row["without_labels"][k]:.3f} ({row["before"][k]:.3f})' for k in keys)]
        for place, row in ((name, found[name]) for name in PLACES if name in found)
    ]
    whole = markdown(['all cells of', *head[2:], 'wrong of the certain'], rows)
    return f'{draws}\n\nWithout labels, and in brackets without learning at all:\n\n{whole}\n'


def levers() -> str:
    "What each lever does to the share of right answers of five classes, in other laboratories, as Markdown."
    networks, own = read_results('levers'), read_results('own_laboratory')['sets']
    shipped = read_results('laboratories')['sets']
    places = [name for name in PLACES if name in own]
    steps = dict(own='the bundled networks, own colours', both="and in BloodMNIST's colours")
    steps |= dict(forest='and the opinion by shape and texture')
    rows = {
        what: [f'{networks["bundled"][place][way]["five"]:.3f}' for place in places]
        for way, what in steps.items()
    }
    rows['the command, as shipped'] = [say(shipped[place]['row']['five']) for place in places]
    rows['`adapt` without labels'] = [f'{own[place]["without_labels"]["five"]:.3f}' for place in places]
    for k in own[places[0]]['labels']:
        rows[f'`adapt`, {k} label{"s" * (k != "1")} a class'] = [
            say(own[place]['labels'][k]['five']) for place in places
        ]
    for arm, row in networks['arms'].items():
        if arm not in ('batch', 'scratch'):
            base = 'batch normalisation' if row['compared_with'] == 'batch' else 'the same from scratch'
            gains = [row['sets'][place]['both']['five']['difference'] for place in places]
            rows[f'small network, {LEVERS[arm]}, less {base}'] = [say(gain) for gain in gains]
    return markdown(['lever', *(PLACES[p] for p in places)], [[k, *v] for k, v in rows.items()]) + '\n'


LEVERS = dict(
    group='group normalisation',
    none='no normalisation',
    frozen='statistics frozen half-way',
    imagenet='ImageNet',
    imagenet_frozen="ImageNet, its statistics frozen",
)


def spoilt() -> str:
    "Answered and wrong of spoilt pictures, by fault and strength, as Markdown."
    found = read_results('doubt')
    untouched = found['sets']['native']
    n = untouched['n']
    rows = [
        [fault, strength, f'{row["answered"]} of {n}', str(row['wrong'])]
        for fault, strengths in (('none', {'-': untouched}), *found['spoilt'].items())
        for strength, row in strengths.items()
    ]
    return markdown(['fault', 'strength', 'certain', 'wrong of these'], rows) + '\n'


def laboratories() -> str:
    "The class on cells of other laboratories, and which cells of which class are called what, as Markdown."
    found = read_results('laboratories')['sets']
    lines = {
        'cells': lambda s: f"{s['n']:,}",
        'right, of eight classes': lambda s: say(s['row']['eight']),
        'the same, each class counting equally': lambda s: say(s['row']['eight_balanced']),
        'cells of the five classes': lambda s: f"{s['row']['five']['n']:,}",
        'right, of these five': lambda s: say(s['row']['five']),
        'the same, each class counting equally ': lambda s: say(s['row']['five_balanced']),
        'certain': lambda s: say(s['row']['certain']),
        'wrong and certain': lambda s: say(s['row']['wrong_and_certain']),
        'wrong among the certain': lambda s: say(s['row']['wrong_of_certain']),
        'probability given to the class, where right': lambda s: say(s['row']['probability_of_right']),
        'probability given to the class, where wrong': lambda s: say(s['row']['probability_of_wrong']),
    }
    places = [p for p in PLACES if p in found]
    columns = {PLACES[place]: found[place] for place in places}
    without = found['bccd']['without_doubted']
    columns |= {'BCCD without doubted labels': dict(n=without['eight']['n'], row=without)}
    shares = markdown(
        ['share of cells', *columns],
        [[name.strip(), *(line(column) for column in columns.values())] for name, line in lines.items()],
    )
    lost = ', '.join(f"{PLACES[p]} {found[p]['not_found']}" for p in places)
    about = (
        f'Cells that were not found count as wrong: {lost}. The doubted labels are listed in laboratories.py.'
    )
    return f'{shares}\n\n{about} What the cells of each class were called, of eight:\n\n{confusions(found)}\n'


def confusions(found) -> str:
    "Class, number of cells and the names that they got, most frequent first, for the foreign sets."
    rows = []
    for place in (p for p in PLACES if p in found and p != 'home'):
        for name, n in sorted(found[place]['classes'].items()):
            answers = found[place]['confusion']['eight'][name]
            ranked = sorted(answers.items(), key=lambda item: (-item[1], item[0]))
            rows.append([PLACES[place], name, str(n), ', '.join(f'{k} {v}' for k, v in ranked)])
    return markdown(['set', 'class', 'cells', 'called'], rows)


# bench/README.md: how far the class can be trusted, and what corruptions and other laboratories do


def classification() -> str:
    "Accuracy, calibration, conformal sets, what was missed, and error under corruption, as Markdown."
    found = read_results('classification')
    rows = [
        [
            name,
            say(row['accuracy']),
            f"{row['balanced_accuracy']:.3f}",
            f"{row['medmnist_auc']:.4f}",
            f"{row['brier']:.4f}; {row['nll']:.4f}",
            f"{row['ece']:.4f} ({row['ece_null']['mean']:.4f}, {row['ece_null']['high']:.4f})",
            f"{row['at_temperature']['ece']:.4f} ({row['temperature']:.2f})",
            *(
                f"{row['sets'][c]['coverage']['mean']:.3f}; {row['sets'][c]['size']:.2f}"
                for c in ('0.9', '0.95')
            ),
        ]
        for name, row in found['rows'].items()
    ]
    head = [
        f"network (n = {found['n']['test']:,})",
        'accuracy',
        'balanced',
        'AUC',
        'Brier; NLL',
        'ECE (of a perfect one, 95 of 100)',
        'at temperature',
        'coverage at .9; names',
        'at .95; names',
    ]
    return f'{markdown(head, rows)}\n\n{goals(found)}\n\n{corrupted_errors(found)}\n'


def goals(found) -> str:
    "What was aimed at and what was reached, in a sentence; and what is not measured yet."
    said = []
    for name, row in found['goals'].items():
        reached = row['reached']
        done = (
            'not measured'
            if reached is None
            else f"{reached:.4f}, {'reached' if reached >= row['goal'] else 'missed'}"
        )
        said.append(f"{name} {row['goal']:.3f}: {done}")
    waiting = ', '.join(found['not_measured']) or 'nothing'
    return f"Aimed at: {'; '.join(said)}. Not measured yet: {waiting}."


def corrupted_errors(found) -> str:
    "Balanced error of one view by corruption, a column each network, as Markdown."
    who = list(found['corrupted'])
    names = list(found['corrupted'][who[0]]['by_severity'])
    rows = [
        [name, *(f"{np.mean(found['corrupted'][w]['by_severity'][name]):.3f}" for w in who)] for name in names
    ]
    rows.append(['mean of all corruptions', *(f"{found['corrupted'][w]['mean']:.3f}" for w in who)])
    n = found['corrupted'][who[0]]['n']
    return markdown([f'balanced error of one view, mean of five severities (n = {n})', *who], rows)


SHOWN = dict(
    accuracy='right class',
    balanced_accuracy='balanced',
    nucleus='nucleus, Dice',
    cell='cell, Dice',
    heat_map='heat map, correlation',
    odder='odder than itself',
    flagged='p of .1 or less',
    warned='with a warning',
    wrong_without_warning='wrong, no warning',
)


def shifts() -> str:
    "What a corruption does, each cell beside itself, and what another laboratory is, as Markdown."
    found, elsewhere = read_results('corruptions'), read_results('laboratories_anomaly')
    table = corruption_table(found)
    rows = [[name, *(f'{row[k]:.3f}' for k in SHOWN)] for name, row in table.iterrows()]
    changed = markdown([f"n = {found['n']}, mean of the severities", *SHOWN.values()], rows)
    rows = [
        [SETS[name], f"{row['n']}", *(say(row[k]) for k in ('home', 'auroc', 'own', 'warned'))]
        for name, row in elsewhere['laboratories'].items()
    ]
    home = elsewhere['bloodmnist']
    rows.insert(0, ['BloodMNIST test', f"{home['n']}", say(home), '-', '-', '-'])
    head = [
        'healthy cells of',
        'n',
        "flagged beside BloodMNIST's",
        "AUROC against BloodMNIST's",
        'flagged beside their own',
        'with a warning',
    ]
    return f'{changed}\n\n{markdown(head, rows)}\n'


# bench/README.md: explanations


def in_words(result: dict) -> str:
    """Which measures would have caught the untrained explainers, in a sentence or three, of a results file of
    `bench/planted.py`.
    """

    def say(m):
        return m.rstrip('|').replace('|', ' with fill ')

    trusted = [m for m, v in result['verdict'].items() if v['trusted']]

    def low(m, f, none):
        return (result['auroc'][m].get(f, {}).get('untrained') or {'low': none})['low']

    unseen = [
        m for m in trusted if all(low(m, f, 1) > result['bound'] for f in result['unseen'])
    ]  # a family without a case is passed over
    real = [f for f in next(iter(result['auroc'].values())) if f.startswith('real')]
    caught = [
        m for m in unseen if all(low(m, f, 0) > result['bound'] for f in real)
    ]  # planted evidence is not to be had there

    def listed(ms):
        return ', '.join(map(say, ms)) if ms else 'none'

    return (
        f'Of {len(result["verdict"])} measures, {len(trusted)} earned trust on planted evidence:'
        f' {listed(trusted)}. In the unseen families {len(unseen)} of them kept it: {listed(unseen)}. With'
        f' every one of the targets on real cells ({", ".join(f.split(": ")[1] for f in real)}) the untrained'
        f' explainers would have been caught by {listed(caught)}.'
    )


def caught() -> tuple:
    """Head and lines of the table of measures.

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
    """Head and lines of the table of naming.

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


def without_context() -> tuple:
    "Head and lines of the table of recipe and network: what each loses when all but the nucleus is hidden."
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
        markdown(*without_context())
        + f"\n\n{in_words(read_results('metrics'))}\n\nAUROC of each measure for telling an explanation from"
        f" an untrained one ({n['networks']} networks a planted family, {n['n']} cells each; one network"
        f" and {real['n']} real cells; 95 % intervals):\n\n"
        + markdown(*caught())
        + "\n\nHow often a map names the part in which the evidence was planted, and any part where nothing"
        " was:\n\n" + markdown(*named()) + '\n'
    )


# bench/README.md: models of others

NUMBERS = dict(float16='float16', bfloat16='bfloat16', float64='float64')


def told(row) -> str:
    "What is said of a model: taken, turned back or refused, with the sentence, as one line of a table."
    sentence = f"{row['sentence']}" if row['said'] != 'taken' else row['no_map'] or ''
    words = 'taken, but no map' if row['said'] == 'taken' and sentence else row['said']
    return words + (f': {cell(sentence)}' if sentence else '')


def cell(sentence: str) -> str:
    "A sentence that holds no mark of a table and no line break."
    return ' '.join(sentence.replace('|', ' or ').split())


def agreement(row) -> str:
    "How one number type answers beside float32."
    if row['said'] == 'refused':
        return 'refused'
    if row['off'] is None:
        return '-'
    maps = '-' if row['alike'] is None else f"{row['alike']:.2f}"
    return f"{row['off']:.0e}; {maps}"


def foreign() -> str:
    "The tables of models and pictures of others, as Markdown."
    found = read_results('foreign_models')
    rows = found['rows']
    counts = {said: sum(row['said'] == said for row in rows) for said in ('taken', 'turned back', 'refused')}
    models = markdown(
        ['library', 'model', 'in float32', *(f'{name} beside it' for name in NUMBERS)],
        [
            [row['library'], row['model'], told(row), *(agreement(row['types'][name]) for name in NUMBERS)]
            for row in rows
        ],
    )
    pictures = markdown(
        ['picture or option', 'refused'], [[name, cell(said)] for name, said in found['pictures'].items()]
    )
    which = ', '.join(f'{name} {found["versions"][name]}' for name in found['versions'] if name != 'numpy')
    return (
        f"Of {len(rows)} models {counts['taken']} are taken as they are, {counts['turned back']} turned back"
        f" into logits with a warning, {counts['refused']} refused ({which}):\n\n{models}\n\n"
        f'Pictures and options that are not what was meant:\n\n{pictures}\n'
    )


# bench/README.md: the programs


class Program(NamedTuple):
    name: str
    measures: str
    time: str  # on 2 cores; {names} are those of `recorded_times`
    writes: tuple = ()  # names in results/


PROGRAMS = (
    Program(
        'train_bundled.py',
        'trains the bundled networks; their accuracy, and Dice with experts; what the seed does',
        '{trained:.1f} h of epochs, one thread',
        ('seeds',),
    ),
    Program(
        'anomaly.py',
        'how well odd cells are found beside peers and floors: blasts of ALL-IDB2, classes never seen',
        '`blasts` seconds; the others hours',
        ('blasts', 'haematological', 'haematological_64px', 'leave-one-out'),
    ),
    Program(
        'score_search.py',
        'whether the sum of scores that finds unseen classes is an accident of its search',
        'a minute, after `anomaly.py --protocol leave-one-out`',
        ('score_search',),
    ),
    Program(
        'odd_parts.py',
        'one part of a healthy cell changed: how often the score sees it, and names the part',
        'half an hour or so',
        ('odd_parts',),
    ),
    Program(
        'shift.py',
        'each cell beside itself under the corruptions of MedMNIST-C; healthy cells of other laboratories',
        '`corruptions` a quarter of an hour; `laboratories` minutes',
        ('corruptions', 'laboratories_anomaly'),
    ),
    Program(
        'classification.py',
        'the class: accuracy, calibration, conformal sets, error under corruption, beside peers',
        'a quarter of an hour; with `--train` hours',
        ('classification',),
    ),
    Program(
        'claims_masks.py',
        'evidence for the ledger of claims: published masks at other sizes, blind ones, Dice beside others',
        'minutes',
        ('recipe_sizes', 'fine_structures'),
    ),
    Program(
        'claims_network.py',
        'evidence for the ledger: gates, channels and levels silenced, noise',
        'minutes each',
        ('gate_mean', 'pruning', 'levels_silenced', 'noise'),
    ),
    Program(
        'claims_parts.py',
        "evidence for the ledger: values of a cell's parts beside those of its class; do they tell errors",
        'minutes',
        ('parts_by_cell',),
    ),
    Program(
        'claims_shown.py',
        'evidence for the ledger: the best quarter of a picture shown alone, short rules, doubt of trees,'
        ' LEN beside a map that knows no reason, two cells',
        'minutes each',
        ('shown_alone', 'short_rules', 'trees_doubt', 'line_and_map', 'cell_pairs'),
    ),
    Program(
        'claims_levels.py',
        'evidence for the ledger: edges, texture, shape and class read out of each level by linear probes',
        'minutes',
        ('probes',),
    ),
    Program(
        'claims_warnings.py',
        'evidence for the ledger: do LEN and SHAP, where they disagree, warn of wrong parts, classes, masks',
        'minutes each',
        ('warnings', 'wrong_order'),
    ),
    Program(
        'claims_odd.py',
        'evidence for the ledger: changed cells, seen with values of parts as features; a map of the change',
        '`features` a quarter of an hour',
        ('explained_features', 'odd_areas'),
    ),
    Program(
        'recipe_networks.py',
        'trains small networks that each differ in one thing of architecture or training; the two below need'
        ' them',
        'an hour and a half, one thread',
    ),
    Program('recipe_cells.py', 'nothing: the cells and fields from which those learn', '-'),
    Program(
        'claims_architecture.py',
        'evidence for the ledger: small networks with and without gates, with and without skips',
        'minutes',
        ('architecture_options',),
    ),
    Program(
        'claims_training.py',
        'evidence for the ledger: labels, losses, turns, rates, decay, optimisers and clipping, each in turn',
        'minutes',
        ('training_options',),
    ),
    Program('claims_kept.py', 'nothing: what these programs share', '-'),
    Program(
        'differential.py',
        'how often the intervals of a differential hold the true shares, at home and in three other'
        ' laboratories; false alarms and power of a smear beside a reference; makes the bundled confusion',
        'a quarter of an hour',
        ('differential',),
    ),
    Program(
        'reference.py',
        'makes the bundled reference: measurements of healthy cells of BloodMNIST',
        'a minute',
    ),
    Program(
        'smear.py',
        'white cells found in fields and single-cell pictures, the size of red cells, and what another'
        ' magnification, margin or neighbourhood does to the scale',
        'a quarter of an hour',
        ('smear',),
    ),
    Program(
        'doubt.py',
        'which classes are called certain, and how many of these are wrong: at home, in three other'
        ' laboratories, and in spoilt pictures',
        '`looks` two minutes, `cells` a quarter of an hour; then seconds',
        ('doubt',),
    ),
    Program(
        'same_cell.py',
        'is a cell the same alone, in a wide margin, amid red cells, near and far? Class and area of nucleus',
        'minutes',
        ('same_cell',),
    ),
    Program(
        'segment.py',
        '`blood-unet segment` against experts: network, recipe, and both, on each half of three sets',
        'minutes',
        ('segment',),
    ),
    Program(
        'laboratories.py',
        'the class that `blood-unet segment` names on cells of three other laboratories, as they come',
        'minutes',
        ('laboratories',),
    ),
    Program(
        'own_laboratory.py',
        'the class after `blood-unet adapt` in three other laboratories, by the labels given of each class',
        'minutes',
        ('own_laboratory',),
    ),
    Program(
        'morphology.py',
        'makes the second opinion by shape and texture; the class by it, by the network and by both, on three'
        ' other laboratories',
        'half an hour',
        ('morphology',),
    ),
    Program(
        'lever_networks.py',
        'trains small networks that differ in normalisation, and in whether they know ImageNet, on BloodMNIST'
        ' alone; `levers.py` calls it',
        'an hour or so',
    ),
    Program(
        'levers.py',
        'what each of these does to the class on three other laboratories: five seeds each, paired',
        'minutes, beside the training',
        ('levers',),
    ),
    Program(
        'adaptation.py',
        'the 64 px network trained on with the pictures of another laboratory: `adapt` without an expert,'
        ' `finetune` with experts, cross-validated',
        'an hour or so',
        ('adaptation', 'finetuning'),
    ),
    Program(
        'variants.py',
        'what attention, its place, and the options of training do: small runs of three seeds each',
        'an hour or so',
        ('variants',),
    ),
    Program(
        'training.py',
        "training speed and Dice beside MONAI's AttentionUnet of equal widths",
        '{raced:.0f} min of training',
        ('training',),
    ),
    Program(
        'loader.py',
        'augmented images a second beside medmnist and torchvision',
        '{loaded:.0f} min of passes',
        ('loader',),
    ),
    Program(
        'startup.py',
        'what an import, the help of the command and one picture cost beyond torch, beside peers',
        'minutes',
        ('startup',),
    ),
    Program(
        'batches.py',
        'pictures a second by batch size, and LEN beside lime',
        'minutes',
        ('batches',),
    ),
    Program(
        'surrogate.py',
        'LEN beside `lime_image`: error by forwards and by seconds, and whether its intervals hold',
        'an hour or so',
        ('surrogate',),
    ),
    Program(
        'shapley.py',
        'Shapley values of the whole test split (`whole`), with other masks (`robust`), their cost (`cost`),'
        ' samplers beside each other (`sampling`), LEN with SHAP (`together`)',
        '`whole` {shapley:.0f} min of forwards; `sampling` and `together` an hour or so each',
        ('global_shapley', 'shapley_robust', 'shapley_cost', 'shapley_sampling', 'len_shap'),
    ),
    Program(
        'auxiliary.py',
        'trees on measurements of cells, a line on features of the network, and what the trees look at',
        'tens of minutes',
        ('auxiliary',),
    ),
    Program(
        'attributes.py',
        "experts' words (WBCAtt) within a class, and what a cell's granules do to its class",
        'tens of minutes',
        ('attributes',),
    ),
    Program(
        'teacher.py',
        'the recipe and the networks that learnt from it, explained by the same parts',
        '{taught:.0f} min, one thread',
        ('teacher',),
    ),
    Program(
        'planted_networks.py',
        'trains small networks whose label is planted in one part of the cell; `planted.py` needs them',
        'hours',
    ),
    Program(
        'planted.py',
        'which measures tell explanations from untrained ones, on those networks and on real cells',
        '{judged:.0f} min for the planted networks, and real cells',
        ('metrics', 'planted'),
    ),
    Program(
        'foreign_models.py',
        'which models of other libraries are taken, turned back into logits or refused, in four number types',
        'minutes',
        ('foreign_models',),
    ),
    Program(
        'gpu.sh', 'the book, training and explanations on a CUDA card beside the CPU', 'minutes', ('gpu',)
    ),
    Program('gpu.py', 'the parts that `gpu.sh run` calls', 'see gpu.sh'),
    Program(
        'pin_experts.py',
        'nothing: fetches the public expert sets and writes down the checksums of their files',
        'minutes, and a network',
    ),
    Program(
        'figures.py',
        'nothing: keeps the numbers of figures that the ledger of claims reads',
        'seconds',
        ('figures',),
    ),
    Program('readme.py', 'nothing: writes the tables of this page and of the README', 'seconds'),
)


def training_hours() -> float:
    "Of the epochs that the bundled networks of real cells and their predecessors took, by history.csv."
    seconds = {}
    for name in ('blood-unet-28', 'blood-unet-64'):
        for row in csv.DictReader((BUNDLED / name / 'history.csv').open()):
            seconds[row.get('run') or name, row['epoch']] = float(row['seconds'])
    return sum(seconds.values()) / 3600


def recorded_times() -> dict:
    "What the programs took, where the results tell: hours of `trained`, minutes of the others."
    teacher, planted, whole, speed, loader = map(
        read_results, ('teacher', 'planted', 'global_shapley', 'training', 'loader')
    )
    seconds = dict(
        taught=sum(setting['seconds'] for setting in teacher['settings'].values()),
        judged=sum(row['seconds'] for row in planted['networks']),
        shapley=sum(r['forwards'] / r['per_second'] for r in whole['runs'].values() if r['per_second']),
        raced=sum(map(sum, speed['seconds'].values())),
        loaded=sum(loader['images'] / rate for rates in loader['rounds'].values() for rate in rates),
    )
    return {name: value / 60 for name, value in seconds.items()} | dict(trained=training_hours())


def scripts() -> str:
    "The table of the programs, as Markdown; a results file that is not there yet is named without a link."
    times = recorded_times()
    rows = []
    for p in PROGRAMS:
        files = [f'[{name}](results/{name}.json)' if is_there(name) else f'{name}.json' for name in p.writes]
        rows.append([f'[{p.name}]({p.name})', p.measures, p.time.format(**times), ', '.join(files) or '-'])
    return markdown(['program', 'what it measures', 'time on 2 cores', 'results'], rows) + '\n'


def is_there(name) -> bool:
    return (TOP / 'bench' / 'results' / f'{name}.json').exists()


TABLES = (
    (HOME, 'results', reach),
    (PAGE, 'scripts', scripts),
    (PAGE, 'results', results),
    (PAGE, 'laboratories', laboratories),
    (PAGE, 'own_laboratory', own_laboratory),
    (PAGE, 'levers', levers),
    (PAGE, 'spoilt', spoilt),
    (PAGE, 'classification', classification),
    (PAGE, 'shifts', shifts),
    (PAGE, 'explanations', explanations),
    (PAGE, 'models', foreign),
)


def split(text: str, name: str) -> tuple:
    "What stands before, between and after the marks of a name; the marks go with before and after."
    start, end = f'<!-- {name} -->\n', f'<!-- end of {name} -->'
    before, rest = text.split(start)
    shown, after = rest.split(end)
    return before + start, shown, end + after


def main():
    for page, name, make in TABLES:
        before, _, after = split(page.read_text(), name)
        with atomic_path(page) as path:
            path.write_text(before + make() + after)


if __name__ == '__main__':
    main()
