"""The house: which module may import which, no module for its side effect, the notebooks that there are."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blood_unet import paper

TOP = Path(__file__).parent.parent
BOOK = sorted(path for path in (TOP / 'nbs').glob('*.ipynb'))
# the rooms from the first to the last: a module imports only from those above it
ROOMS = (
    'core files images metrics plots folders masks labels phantom data experts flags preprocessing'
    ' augmentation ruler smear reference morphology quality doubt differential encoder model predict cells'
    ' naming laboratory segment adapter training targets heatmaps controls feature_maps coalitions'
    ' local_surrogate auxiliary shapley teacher faithfulness scorecard held_out novelty anomaly odd_parts'
    ' planted shift calibration protocols ledger claims explain view view_figure explorer paper cli'
).split()
HANDS_OFF = ('explorer', 'cli')  # the widgets and the commands: nothing of the library needs them


def exported(notebook) -> str:
    "The name of the module that a notebook exports, or an empty text."
    cells = json.loads(notebook.read_text())['cells']
    found = [re.search(r'#\|\s*default_exp (\w+)', ''.join(cell['source'])) for cell in cells]
    return next((match[1] for match in found if match), '')


def imports(module) -> set:
    "The modules of the library that one of them imports, wherever in its text."
    tree, found = ast.parse((TOP / 'blood_unet' / f'{module}.py').read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            name = ('blood_unet.' if node.level else '') + (node.module or '')
            if name == 'blood_unet' or (node.level and not node.module):
                found |= {alias.name for alias in node.names}
            elif name.startswith('blood_unet.'):
                found.add(name.split('.')[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split('.')[1] for alias in node.names if alias.name.startswith('blood_unet.')
            }
    return found & set(ROOMS)


def test_the_notebooks_export_the_rooms_in_their_order():
    assert [name for name in map(exported, BOOK) if name] == ROOMS
    modules = {path.stem for path in (TOP / 'blood_unet').glob('*.py')} - {'__init__', '_modidx'}
    assert modules == set(ROOMS)


@pytest.mark.parametrize('module', [room for room in ROOMS if room != 'cli'])
def test_a_module_imports_only_from_rooms_above_it(module):
    above = ROOMS[: ROOMS.index(module)]
    assert imports(module) <= set(above), f'{module} imports {sorted(imports(module) - set(above))}'
    assert not imports(module) & set(HANDS_OFF)


def test_imports_are_seen():
    "The test above can fail: a module that imports from below is told."
    assert {'model', 'images'} <= imports('predict') and 'predict' not in imports('model')


def test_the_book_is_every_numbered_notebook():
    numbered = sorted(path.name for path in BOOK if path.name[:2].isdigit())
    assert [path.name for path in BOOK if exported(path)] == numbered
    driving = ('13_paper.ipynb', '14_cli.ipynb')
    assert [path.name for path in paper.notebooks(TOP / 'nbs')] == [n for n in numbered if n not in driving]
    made = subprocess.run(
        ['make', '-pn', '-f', 'Makefile', 'clean'], cwd=TOP, capture_output=True, text=True
    ).stdout
    book = re.search(r'^BOOK := (.*)$', made, re.M)[1].split()
    assert sorted(Path(name).name for name in book) == numbered
    plan = yaml.safe_load((TOP / 'nbs' / 'paper.yaml').read_text())
    named = {*plan['need_classes'], *plan['quick'], *plan['paper']}
    assert named <= {Path(name).stem for name in numbered}


HEAVY = 'seaborn matplotlib.pyplot medmnist sklearn lightning_fabric torchvision shap captum'.split()


@pytest.mark.parametrize('path', BOOK, ids=lambda path: path.stem)
def test_what_a_notebook_shows_names_no_folder_of_a_machine(path):
    book = json.loads(path.read_text())
    shown = [cell.get('outputs', []) for cell in book['cells']] + [book['metadata']]
    found = re.findall(r'(?<![\w.])/(?:tmp|home|root|Users|var|work|mnt)/[\w.-]+', json.dumps(shown))
    assert not found


@pytest.mark.parametrize(
    'module, more', [('model', []), ('segment', []), ('cli', ['torch', 'pandas', 'scipy'])]
)
def test_nobody_loads_what_he_does_not_ask_for(module, more):
    code = (
        f'import sys, blood_unet.{module}; print(*[name for name in {HEAVY + more} if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
