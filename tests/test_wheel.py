"""The wheel holds the library, its weights and the book, and works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from blood_unet.data import phantom

from conftest import MODEL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "Built from the files that git would commit, or from the source archive, without a network."
    dist, source = tmp_path_factory.mktemp('dist'), tmp_path_factory.mktemp('source')
    files = 'settings.ini setup.py MANIFEST.in constraints.txt Makefile LICENSE README.md CHANGELOG.md'
    for name in f'{files} CITATION.cff CONTRIBUTING.md nbs blood_unet bench'.split():
        subprocess.run(['cp', '-r', ROOT / name, source], check=True)
    build = subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', dist, source],
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-2000:]
    return next(dist.glob('*.whl'))  # made from the source archive, so that one is complete as well


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A function that runs Python or the command with the wheel in front of everything, in a folder far from
    the checkout.
    """
    site, away = tmp_path_factory.mktemp('site'), tmp_path_factory.mktemp('away')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', site, wheel],
        check=True,
    )
    env = {**os.environ, 'PYTHONPATH': str(site)}
    env.pop('BLOOD_UNET_DATA', None)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=away,
            env=env,
            timeout=600,
        )

    run.site, run.away = site, away
    return run


def test_what_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    book = {Path(name).name for name in names if name.startswith('blood_unet/book/')}
    assert book == {
        path.name for path in [*(ROOT / 'nbs').glob('[0-9][0-9]*_*.ipynb'), *(ROOT / 'nbs').glob('*.yaml')]
    } | {path.name for path in (ROOT / 'bench' / 'results').glob('*.json')}
    assert {'paper.yaml', 'claims.yaml'} <= book
    assert {f'blood_unet/weights/{MODEL}/{name}' for name in ('config.json', 'model.safetensors')} <= set(
        names
    )
    assert 'blood_unet/expert_files.json' in names, 'the list of what is fetched'
    assert any(name.endswith('LICENSE') for name in names)
    assert not [name for name in names if name.startswith(('nbs/', 'tests/', 'bench/'))], (
        'nothing but the package is installed'
    )
    assert sum(info.compress_size for info in zipfile.ZipFile(wheel).infolist()) < 15e6


def test_the_library_asks_for_no_notebook_tool(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith('METADATA'))).decode()
    needs = [
        line.split()[1].lower()
        for line in metadata.splitlines()
        if line.startswith('Requires-Dist:') and 'extra ==' not in line
    ]
    assert any(name.startswith('torch>=2.10') for name in needs)
    assert not [
        name
        for name in needs
        if name.startswith(('jupyter', 'papermill', 'nbdev', 'fastcore', 'execnb', 'ipykernel', 'pytest'))
    ]
    assert 'Provides-Extra: notebooks' in metadata and 'Provides-Extra: dev' in metadata


def test_the_library_imports_without_the_notebook_tools(installed):
    code = '''import sys
absent = 'papermill jupyterlab nbdev fastcore execnb nbformat nbclient yaml ipykernel'.split()
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in absent: raise ImportError(name + ' is not installed')
sys.meta_path.insert(0, Block())
import pkgutil, importlib, blood_unet
for module in pkgutil.iter_modules(blood_unet.__path__):
    if not module.name.startswith('_'): importlib.import_module('blood_unet.' + module.name)
print(blood_unet.__file__)
from blood_unet import paper
try: paper.regenerate(dataset='phantom')
except ImportError as e: print(e)'''
    done = installed('-c', code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(installed.site) in done.stdout.splitlines()[0]
    assert 'pip install "blood_unet[notebooks]"' in done.stdout


def test_segment_from_the_wheel(installed):
    image = installed.away / 'cell.png'
    Image.fromarray(phantom(1, size=100, seed=5).images[0]).save(image)
    done = installed(
        installed.site / 'bin' / 'blood-unet', 'segment', image, '--out', 'out', '--model', MODEL
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(path.name for path in (installed.away / 'out').iterdir()) == [
        'cell_cell.png',
        'cell_nucleus.png',
        'cell_overlay.png',
        'cells.csv',
        'differential.csv',
    ]
    assert Image.open(installed.away / 'out' / 'cell_nucleus.png').size == (100, 100)


def test_figures_run_from_the_wheel(installed):
    code = '''from pathlib import Path
from blood_unet import paper
import shutil
book = Path('book'); book.mkdir()
print('BOOK', paper.book_folder())
shutil.copy(paper.book_folder()/'00a_core.ipynb', book)
(book/'paper.yaml').write_text('quick: {}')
paper.regenerate(dataset='phantom', out='figures', book=book)'''
    done = installed('-c', code)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert f'BOOK {installed.site / "blood_unet" / "book"}' in done.stdout
    assert (installed.away / 'figures' / 'executed' / '00a_core.ipynb').is_file()


def test_claims_from_the_wheel(installed):
    done = installed(installed.site / 'bin' / 'blood-unet', 'claims', '--out', 'judged')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'STATEMENTS' in done.stdout and 'warning' not in done.stdout
    assert (installed.away / 'judged' / 'claims.json').is_file()
