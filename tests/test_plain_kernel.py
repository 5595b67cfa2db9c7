"""The book on a stranger's machine: every notebook from its first cell to its last in a plain kernel.

By `jupyter execute`, which stops at the first error as 'Run All' does, in a copy of the checkout: without
data and network by default; with `-m every_notebook`, and real data, with BloodMNIST alone and with all.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pooch
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from blood_unet import data
from blood_unet.core import sha256_file
from blood_unet.flags import flagged

TOP = Path(__file__).parent.parent
BOOK = sorted(path.name for path in (TOP / 'nbs').glob('*.ipynb'))
LEFT_OUT = 'This cell was left out: it '
SPEC = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
NOT_HERE = ('BLOOD_UNET_DATA', 'BLOOD_UNET_FLAGS', 'MPLBACKEND', 'IPYTHONDIR', 'JUPYTER_PATH')


def execute(notebook, home, **env):
    "`jupyter execute` of a notebook, its outputs kept, by somebody whose home is `home`; the ended process."
    stranger = dict(HOME=str(home), BLOOD_UNET_OFFLINE='1', JUPYTER_PREFER_ENV_PATH='1', TQDM_DISABLE='1')
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HERE}
    jupyter = Path(sys.executable).with_name('jupyter')
    return subprocess.run(
        [jupyter, 'execute', '--inplace', notebook.name],
        env={**kept, **stranger, **env},
        cwd=notebook.parent,
        capture_output=True,
        text=True,
    )


def said(cell) -> str:
    "What a cell printed."
    return ''.join(output.text for output in cell.get('outputs', ()) if output.output_type == 'stream')


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob('*') if path.is_file()}


class Book:
    "All notebooks in a copy of the checkout, two at a time, with what `given` holds; `flags` that are on."

    def __init__(self, folder, given='', flags=''):
        self.top, home = folder / 'checkout', folder / 'home'
        home.mkdir()
        for name in ('nbs', 'figures', 'blood_unet', 'bench'):
            left = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'executed')
            shutil.copytree(TOP / name, self.top / name, ignore=left)
        shutil.copy(TOP / 'settings.ini', self.top)
        self.before, self.pool = contents(self.top), ThreadPoolExecutor(2)
        env = dict(PYTHONPATH=str(self.top), PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1')
        env |= dict(BLOOD_UNET_DATA=str(given), BLOOD_UNET_FLAGS=flags)
        self.done = {name: self.pool.submit(execute, self.top / 'nbs' / name, home, **env) for name in BOOK}

    def cells(self, name) -> list:
        "The code cells of a notebook after its run, which ended without an error."
        done = self.done[name].result()
        assert done.returncode == 0, done.stderr[-3000:]
        cells = nbformat.read(self.top / 'nbs' / name, 4).cells
        return [cell for cell in cells if cell.cell_type == 'code']

    def left_out(self, name, told):
        "Are the cells with a flag left out, and no others, each with as many sentences as `told` says?"
        cells = self.cells(name)
        wanted = {i: told(flagged(cell.source)) for i, cell in enumerate(cells)}
        told_of = {i: f'\n{said(cell)}'.count(f'\n{LEFT_OUT}') for i, cell in enumerate(cells)}
        assert told_of == wanted

    def unchanged(self):
        "Have the notebooks written nothing but their own outputs?"
        for done in self.done.values():
            done.result()
        names = [f'nbs/{name}' for name in BOOK]
        after = contents(self.top)
        return {k: v for k, v in after.items() if k not in names} == {
            k: v for k, v in self.before.items() if k not in names
        }


@pytest.fixture(scope='module')
def nothing(tmp_path_factory):
    book = Book(tmp_path_factory.mktemp('nothing'), flags='slow')  # this is also the test of slow cells
    yield book
    book.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize('name', BOOK)
def test_without_data_and_network(nothing, name):
    def told(wanted):
        return sum(max(1, len(words)) for flag, words in wanted.items() if flag != 'slow')

    nothing.left_out(name, told)


def test_without_data_nothing_is_written(nothing):
    assert nothing.unchanged()


def test_without_data_the_published_figures_stand_beside_the_phantom(nothing):
    for name, figure in (('02a_preprocessing', 'fig1_dataset'), ('05b_heatmaps', 'fig5_heatmaps')):
        cell = next(cell for cell in nothing.cells(f'{name}.ipynb') if f"'{figure}'" in cell.source)
        assert said(cell).startswith(f'figures/{figure}.png, not from this run but from bloodmnist')
        assert sum('image/png' in output.get('data', {}) for output in cell.outputs) == 2
    real = [cell for name in BOOK for cell in nothing.cells(name) if 'not from this run' in said(cell)]
    assert len(real) >= 8


@pytest.fixture(scope='module')
def bloodmnist(tmp_path_factory):
    "BloodMNIST at 28 and 64 px, and nothing else."
    folder = tmp_path_factory.mktemp('bloodmnist')
    for size in (28, 64):
        name = data.bloodmnist_file(size)[0]
        (folder / name).symlink_to(data.find_data(name).resolve())
    book = Book(tmp_path_factory.mktemp('alone'), folder)
    yield book
    book.pool.shutdown(cancel_futures=True)


@pytest.mark.every_notebook
@pytest.mark.parametrize('name', BOOK)
def test_with_bloodmnist_alone(bloodmnist, name):
    def told(wanted):
        return ('experts' in wanted and max(1, len(wanted['experts']))) + ('slow' in wanted)

    bloodmnist.left_out(name, told)


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    book = Book(tmp_path_factory.mktemp('everything'), data.data_dirs()[0].resolve())
    yield book
    book.pool.shutdown(cancel_futures=True)


@pytest.mark.every_notebook
@pytest.mark.parametrize('name', BOOK)
def test_with_everything(everything, name):
    everything.left_out(name, lambda wanted: 'slow' in wanted)


def test_a_notebook_with_flags_obeys_them():
    for name in BOOK:
        cells = [
            cell.source for cell in nbformat.read(TOP / 'nbs' / name, 4).cells if cell.cell_type == 'code'
        ]
        first = next((i for i, source in enumerate(cells) if flagged(source)), None)
        assert first is None or 'obey_flags()' in '\n'.join(cells[:first]), name


@pytest.fixture
def toy(tmp_path):
    "Runs a notebook of the given cells in a plain kernel; returns its cells and the ended process."

    def run(*sources, **env):
        path = tmp_path / 'toy.ipynb'
        nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources], metadata=SPEC), path)
        done = execute(path, tmp_path, **{'PYTHONPATH': str(TOP), 'OMP_NUM_THREADS': '1'} | env)
        return nbformat.read(path, 4).cells, done

    return run


OBEY = 'from blood_unet.flags import obey_flags\n\nobey_flags()'


def test_the_kernel_goes_on_where_a_flagged_cell_cannot_run(toy, tmp_path):
    (tmp_path / 'data' / 'native').mkdir(parents=True)
    cells, done = toy(
        OBEY,
        '#| bloodmnist\nx = 1',
        '#| experts native\nprint("it is here")',
        "#| bloodmnist 64\n#| experts wbcatt.csv\nprint(f'{x}')  # x is not there either",
        '#| slow\n1/0',
        'print("the end")',
    )
    assert done.returncode == 0
    assert said(cells[1]).startswith(f'{LEFT_OUT}needs BloodMNIST at 28 px, and no bloodmnist.npz is in')
    assert said(cells[2]) == 'it is here\n'
    first, second = said(cells[3]).splitlines()
    assert 'bloodmnist_64.npz' in first and 'https://zenodo.org' in first
    assert second.startswith(f'{LEFT_OUT}needs wbcatt.csv') and 'data/README.md' in second
    assert said(cells[4]).startswith(f'{LEFT_OUT}takes long')
    assert said(cells[5]) == 'the end\n'


def test_flags_that_are_on_and_cells_without_a_flag_are_run_as_they_are(toy):
    cells, done = toy(OBEY, '#| slow\nprint("minutes")', '#| experts\n1/0', BLOOD_UNET_FLAGS='slow')
    assert (done.returncode, said(cells[1])) == (0, 'minutes\n')
    assert said(cells[2]).startswith(f'{LEFT_OUT}needs the expert set jiangxi')
    _, done = toy(OBEY, '#| experts\n1/0', BLOOD_UNET_FLAGS='experts')  # who says that it is here is believed
    assert done.returncode == 1 and 'ZeroDivisionError' in done.stderr
    _, done = toy(OBEY, "from blood_unet.experts import load_expert\nload_expert('all_idb2')")
    assert done.returncode == 1 and 'ask its owners for it' in done.stderr


def test_a_broken_file_is_an_error_and_not_left_out(toy, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'bloodmnist.npz').write_text('broken')
    _, done = toy(OBEY, "from blood_unet.data import load_cells\nload_cells('auto', 'test')")
    assert (
        done.returncode == 1 and 'DataError' in done.stderr and 'delete it and fetch it again' in done.stderr
    )


def test_a_network_that_does_not_answer_is_waited_for_once(monkeypatch, tmp_path, capsys):
    "A server that takes the call and says nothing; the second and third loading do not call it again."
    server = socket.create_server(('127.0.0.1', 0))
    address = f'http://127.0.0.1:{server.getsockname()[1]}/bloodmnist.npz'
    monkeypatch.setattr(data, 'bloodmnist_file', lambda size=28: ('bloodmnist.npz', address, '0' * 32))
    patient = pooch.HTTPDownloader
    monkeypatch.setattr(pooch, 'HTTPDownloader', lambda timeout: patient(timeout=timeout / 10))
    monkeypatch.setattr(data, '_failed', {})
    for name in (
        'BLOOD_UNET_DATA',
        'BLOOD_UNET_OFFLINE',
        'HTTP_PROXY',
        'http_proxy',
        'ALL_PROXY',
        'all_proxy',
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    start, waited = time.monotonic(), []
    for _ in range(3):
        assert data.load_cells('auto', 'test', limit=2).phantom
        waited.append(time.monotonic() - start)
    assert 1 <= waited[0] < 8 and waited[2] - waited[0] < 1
    assert (
        capsys.readouterr().out.count('NO BLOODMNIST: got no download of bloodmnist.npz (ReadTimeout)') == 3
    )
