"""The pages for readers: tables hold what was measured, Python runs as pasted, links lead somewhere."""

import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from blood_unet.claims import claim_readings, judge_reading, ledger
from blood_unet.ledger import read_claims

TOP = Path(__file__).parent.parent
README = (TOP / 'README.md').read_text()
BENCH = runpy.run_path(str(TOP / 'bench' / 'readme.py'))
LONGEST = 1000  # words of the README


@pytest.mark.parametrize(
    'page, name, make',
    BENCH['TABLES'],
    ids=[f'{page.parent.name}-{name}' for page, name, _ in BENCH['TABLES']],
)
def test_tables_are_what_was_measured(page, name, make):
    _, shown, _ = BENCH['split'](page.read_text(), name)
    assert shown == make(), f'{page} is out of step with bench/results: run python bench/readme.py'


def test_every_program_and_every_result_is_named():
    programs = BENCH['PROGRAMS']
    here = {p.name for p in (TOP / 'bench').iterdir() if p.suffix in ('.py', '.sh')}
    assert {p.name for p in programs} == here
    written = {name for p in programs for name in p.writes}
    assert {p.stem for p in (TOP / 'bench' / 'results').glob('*.json')} <= written


@pytest.mark.parametrize('path', sorted((TOP / 'bench').glob('*.py')), ids=lambda path: path.stem)
def test_what_a_program_imports_is_there(path):
    "Programs run seldom: a name that has moved would be missed on that day."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'blood_unet':
            module = importlib.import_module(node.module)
            names = [alias.name for alias in node.names]
            there = {name for name in names if hasattr(module, name) or is_module(f'{node.module}.{name}')}
            assert set(names) == there, f'{path.name} imports {set(names) - there} from {node.module}'


def is_module(name) -> bool:
    return importlib.util.find_spec(name) is not None


def test_what_the_readme_says_of_other_laboratories():
    "'In other laboratories the outlines hold and the class does not.'"
    measured = {name: BENCH['read_results'](name)['sets'] for name in ('segment', 'laboratories')}
    for halves in measured['segment'].values():
        assert all(halves['report'][mask]['both']['mean'] > 0.9 for mask in ('nucleus', 'cell'))
    home = measured['laboratories'].pop('home')['row']
    for place in measured['laboratories'].values():
        assert place['row']['eight']['high'] < 0.9 < home['eight']['low']
        assert place['row']['five']['high'] < 0.9 < home['five']['low']


def test_what_the_readme_says_of_certain_classes():
    "'Believe what is `certain`': fewer of the certain cells are wrong than of all, everywhere."
    for place in BENCH['read_results']('laboratories')['sets'].values():
        row = place['row']
        assert row['wrong_of_certain']['mean'] < 1 - row['eight']['mean']


def test_what_the_readme_says_of_a_laboratory_of_ones_own():
    "'Of eight classes ... are then right', in the order of the table below it."
    found = BENCH['read_results']('own_laboratory')['sets']
    places = [README.index(f'| {title}') for title in ('Jiangxi', 'CellaVision', 'BCCD')]
    assert places == sorted(places)

    def percents(part):
        jiangxi, cellavision, bccd = (
            100 * part(found[name])['eight']['mean'] for name in ('jiangxi', 'cellavision', 'bccd')
        )
        return f'{jiangxi:.0f}, {cellavision:.0f} and {bccd:.0f} %'

    after, before = percents(lambda row: row['labels']['5']), percents(lambda row: row['before_of_not_drawn'])
    assert f'Of eight classes {after} are then right in the laboratories below, not {before}.' in README


def test_what_the_readme_says_of_odd_cells():
    "'Immature cells are found. The given blasts too, but the colour of the slide alone gives them away.'"
    found, immature = (BENCH['read_results'](name) for name in ('blasts', 'haematological'))
    (group,) = immature['groups']
    shown = (
        f"(area under the ROC curve {group['ours']['mean']:.2f},",
        f"the field's best detector {group['peer']['mean']:.2f})",
        f'are found ({found["ours"]["mean"]:.2f})',
        f'gives them away ({found["slide"]["mean"]:.2f})',
    )
    assert all(words in README for words in shown), shown


def test_what_the_readme_says_of_the_claims():
    rows = ledger()
    rows = rows[~rows.name_only]
    plain = rows.plain.value_counts()
    said = f'[{len(rows)} statements, judged](nbs/11b_claims.ipynb)'
    assert (
        f"{said} (`blood-unet claims`): read plainly {plain['supported']} supported,"
        f" {plain['contradicted']} contradicted." in README
    )


def test_what_the_readme_says_of_the_five_claims_that_matter_most():
    claims = read_claims()
    rows, each = ledger(claims).set_index('id'), {row['id']: row['readings'] for row in claims.rows}
    five = 'mask-recipe', 'anomaly-efficacy', 'attention-accuracy', 'combine-better', 'fig5-centre'
    assert all(rows.plain[name] == 'contradicted' for name in five)
    sizes = claim_readings(claims).groupby('id').comparisons.first()

    def plain(name):
        (reading,) = (one for one in each[name] if one.get('plain'))
        return judge_reading(reading, claims, sizes[name])[:2]

    masks, gain = ([one.value for one in plain(name)[0]] for name in ('mask-recipe', 'attention-accuracy'))
    (diseases,), _ = plain('anomaly-efficacy')
    (_, together), (_, centre) = plain('combine-better'), plain('fig5-centre')
    shown = (
        'The five that matter most are contradicted:\n',
        f'Dice with experts {min(masks):.2f} to {max(masks):.2f}.',
        f'gains {min(gain):.3f} to {max(gain):.3f} of nucleus Dice',
        f'than SHAP in {together.count("supported")} of {len(together)} comparisons',
        f'worse in {together.count("contradicted")}.',
        f'{centre.count("contradicted")} of {len(centre)} maps follow a cell moved away.',
    )
    assert all(words in README for words in shown), shown
    assert diseases.value == 0


def test_what_the_page_of_measurements_says_of_them():
    text, read = (TOP / 'bench' / 'README.md').read_text(), BENCH['read_results']
    assert f"is above {read('metrics')['bound']:.2f} in each".replace('0.', '.') in text
    for masks in read('adaptation')['sets'].values():
        alone, combined = (masks[key]['report']['paired'] for key in ('nucleus', 'nucleus, settled'))
        assert alone['mean'] > 0 >= alone['low'] and combined['low'] > 0


def test_readme_is_short():
    text = re.sub(r'<!--.*?-->|!\[[^]]*\]\([^)]*\)', '', README, flags=re.S)
    assert len(text.split()) <= LONGEST


def run(code, folder):
    "A process of its own that runs the code in a folder, without data: what it printed."
    environment = {k: v for k, v in os.environ.items() if k != 'BLOOD_UNET_DATA'} | dict(
        MPLBACKEND='agg', PYTHONPATH=str(TOP), BLOOD_UNET_OFFLINE='1'
    )
    found = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_own_pictures_as_pasted(tmp_path):
    (code,) = re.findall(r'```python\n(.*?)```', README, re.S)
    assert len(code.splitlines()) == 4
    draw = """
from PIL import Image
from blood_unet.data import phantom
Image.fromarray(phantom(1, size=64, seed=0).images[0]).save('my_cell.png')
"""
    head, row = run(draw + code, tmp_path).splitlines()
    assert head.split() == ['class', 'certain', 'nucleus_px', 'nc_ratio']
    found = re.match(r'(\d+) +(\D+?) +(?:True|False) +(\d+) +([.\d]+)', row)
    number, _, nucleus, ratio = found.groups()
    assert number == '0' and int(nucleus) > 0 and 0 < float(ratio) <= 1


def test_any_model_as_pasted(tmp_path):
    (code,) = re.findall(r'```py\n(.*?)```', README, re.S)
    assert len(code.splitlines()) == 6  # the import and five lines
    before = """
import torch
from blood_unet.data import phantom
cells = phantom(2, size=64, seed=0).images


class Dark(torch.nn.Module):
    def forward(self, x):
        return -4 * x.mean(1, keepdim=True)


your_model, mean, std = Dark(), (0.7, 0.6, 0.7), (0.2, 0.2, 0.1)
"""
    shown = run(before + code + 'print(values.shape, bool((values[:, 0] > 0).all()))', tmp_path)
    assert shown.strip() == '(2, 5) True'  # core of the nucleus, its rim, cytoplasm, neighbours, background


def pages() -> list:
    "The pages for readers, each with its text."
    found = []
    for name in ('README.md', 'CONTRIBUTING.md', 'bench/README.md', 'data/README.md'):
        found.append((TOP / name, (TOP / name).read_text()))
    for path in sorted((TOP / 'nbs').glob('*.ipynb')):
        cells = json.loads(path.read_text())['cells']
        words = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown']
        found.append((path, '\n'.join(words)))
    return found


@pytest.mark.parametrize('path, text', pages(), ids=[path.relative_to(TOP).as_posix() for path, _ in pages()])
def test_links_lead_somewhere(path, text):
    text = re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)
    links = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'<img [^>]*src="([^"]+)"', text)
    for link in links:
        place = link.split('#')[0]
        if place and not place.startswith(('http:', 'https:', 'attachment:')):
            assert (path.parent / place).exists(), f'{path.name} links to {link}'
