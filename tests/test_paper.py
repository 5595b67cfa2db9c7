"""The book runner as a person meets it: exit status, messages, kills, folders that cannot be written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from nbformat.v4 import new_code_cell, new_notebook

from blood_unet import cli, paper
from blood_unet.core import ParameterError, sha256_file
from blood_unet.data import phantom

SPEC = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
DRAW = '''import matplotlib.pyplot as plt
from blood_unet.plots import save_figure
fig = plt.figure(figsize=(2, height)); plt.plot([0, height])
save_figure(fig, 'fig0_toy', figures_dir, numbers=dict(height=height))'''


@pytest.fixture
def toy(tmp_path):
    "Writes a book of two notebooks, the first of which draws; returns its folder."
    folder = tmp_path / 'nbs'
    folder.mkdir()

    def write(second, height=2, plan='{}'):
        parameters = new_code_cell(
            f"figures_dir = '../figures'\nheight = {height}", metadata=dict(tags=['parameters'])
        )
        nbformat.write(
            new_notebook(cells=[parameters, new_code_cell(DRAW)], metadata=SPEC), folder / '00_draw.ipynb'
        )
        nbformat.write(new_notebook(cells=[new_code_cell(second)], metadata=SPEC), folder / '01_next.ipynb')
        (folder / 'paper.yaml').write_text(plan)
        return folder

    return write


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['blood-unet', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0, capsys.readouterr()


def contents(folder):
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in folder.rglob('*')
        if path.is_file() and 'executed' not in path.parts
    }


def test_exit_status_and_message_of_a_failing_cell(toy, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, 'book_folder', lambda: toy('print(1)'))
    code, said = command(monkeypatch, capsys, 'figures', '--dataset', 'phantom', '--out', 'out')
    assert code == 0 and 'data: phantom' in said.out and '00_draw' in said.out and 'fig0_toy.png' in said.out
    before = contents(out)
    assert set(before) == {'fig0_toy.png', 'manifest.json'}

    monkeypatch.setattr(paper, 'book_folder', lambda: toy('x = {}\nx["gone"]', height=1))
    code, said = command(monkeypatch, capsys, 'figures', '--dataset', 'phantom', '--out', 'out')
    assert code == 1
    assert "01_next.ipynb, cell 1 (x = {}) failed: KeyError: 'gone'" in said.err
    assert len(said.err.splitlines()) < 20, 'the traceback is short'
    assert contents(out) == before
    assert 'KeyError' in (out / 'executed' / '01_next.ipynb').read_text()
    assert not list(out.glob('.*')), 'no temporary folder is left'


def test_unknown_names_are_refused_before_anything_runs(toy, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    monkeypatch.setattr(paper, 'book_folder', lambda: toy('1/0', plan='quick: {00_draw: {hieght: 3}}'))
    for options, message in (
        (['--profile', 'fast'], "got profile='fast'; expected one of 'quick', 'paper'"),
        (['--size', '29'], 'got size=29; expected one of 28, 64, 128, 224'),
        (['--device', 'gpu'], "got device='gpu'"),
        (['--workers', '0'], 'got workers=0; expected a whole number, 1 or more'),
        (['--dataset', 'phantoms'], "got dataset='phantoms'"),
        (
            ['--dataset', 'phantom'],
            "got parameter 'hieght' for 00_draw.ipynb; expected one of 'figures_dir', 'height'",
        ),
    ):
        code, said = command(monkeypatch, capsys, 'figures', '--out', out, *options)
        assert code == 1 and message in said.err and 'Traceback' not in said.err
    assert not out.exists() or not contents(out)
    assert command(monkeypatch, capsys, 'figures', '--size', 'big')[0] == 2
    assert command(monkeypatch, capsys, 'figures', '--colour', 'red')[0] == 2


def ended(pid, seconds=10):
    "Whether a process is gone within some seconds."
    for _ in range(10 * seconds):
        if not os.path.exists(f'/proc/{pid}'):
            return True
        time.sleep(0.1)
    return False


def test_a_terminated_run_leaves_everything_as_it_was(toy, tmp_path):
    out = tmp_path / 'out'
    paper.regenerate(dataset='phantom', out=out, book=toy('0'))
    before = contents(out)
    book = toy(
        f'import os, time\nopen({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))\ntime.sleep(100)',
        height=1,
    )
    code = (
        'import sys; from blood_unet import cli, paper; paper.book_folder = lambda:'
        f' __import__("pathlib").Path({str(book)!r}); cli.main()'
    )
    run = subprocess.Popen(
        [sys.executable, '-c', code, 'figures', '--dataset', 'phantom', '--out', out], stderr=subprocess.PIPE
    )
    for _ in range(600):
        if (tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text():
            break
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) != 0
    assert contents(out) == before
    assert not list(out.glob('.*'))
    assert ended((tmp_path / 'pid').read_text()), 'the kernel ends with its run'


WAIT = """import os, pathlib, time
pathlib.Path({mine!r}).write_text(f"{{os.getpid()}} {{os.environ['OMP_NUM_THREADS']}}")
for _ in range({seconds}*10):
    if pathlib.Path({other!r}).exists(): break
    time.sleep(.1)
else: raise TimeoutError('alone')"""


def test_two_notebooks_run_at_a_time_and_share_the_threads(tmp_path):
    book, notes = tmp_path / 'nbs', [tmp_path / 'a', tmp_path / 'b']
    book.mkdir()
    (book / 'paper.yaml').write_text('{}')
    for name, mine, other in (('00_first', *notes), ('01_second', *notes[::-1])):
        nbformat.write(
            new_notebook(
                cells=[new_code_cell(WAIT.format(mine=str(mine), other=str(other), seconds=60))],
                metadata=SPEC,
            ),
            book / f'{name}.ipynb',
        )
    before = paper.torch.get_num_threads()
    paper.torch.set_num_threads(5)
    try:
        paper.regenerate(dataset='phantom', out=tmp_path / 'out', book=book, workers=2)
    finally:
        paper.torch.set_num_threads(before)
    assert [note.read_text().split()[1] for note in notes] == ['2', '2'], 'half of five threads each'

    for note in notes:
        note.unlink()
    first = book / '00_first.ipynb'
    nbformat.write(
        new_notebook(
            cells=[new_code_cell(WAIT.format(mine=str(notes[0]), other=str(notes[1]), seconds=2))],
            metadata=SPEC,
        ),
        first,
    )
    with pytest.raises(paper.BookError, match='00_first.ipynb, cell 1 .* failed: TimeoutError: alone'):
        paper.regenerate(dataset='phantom', out=tmp_path / 'out', book=book, workers=1)
    assert not notes[1].exists(), 'one at a time: the second has not begun'


def test_a_failing_notebook_stops_the_one_beside_it(tmp_path):
    book, note = tmp_path / 'nbs', tmp_path / 'note'
    book.mkdir()
    (book / 'paper.yaml').write_text('{}')
    endless = WAIT.format(mine=str(note), other=str(tmp_path / 'never'), seconds=300)
    broken = f'import pathlib, time\nwhile not pathlib.Path({str(note)!r}).exists(): time.sleep(.1)\n1/0'
    for name, source in (('00_endless', endless), ('01_broken', broken)):
        nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=SPEC), book / f'{name}.ipynb')
    start = time.monotonic()
    with pytest.raises(paper.BookError, match='01_broken.ipynb, cell 1 .* failed: ZeroDivisionError'):
        paper.regenerate(dataset='phantom', out=tmp_path / 'out', book=book)
    assert time.monotonic() - start < 120, 'it does not wait for the endless one'
    assert ended(note.read_text().split()[0]), 'nor leave its kernel behind'
    assert not list((tmp_path / 'out').glob('.*'))


def test_a_kernel_that_dies_is_named(toy, tmp_path):
    with pytest.raises(paper.BookError, match='01_next.ipynb failed: the kernel died'):
        paper.regenerate(
            dataset='phantom',
            out=tmp_path / 'out',
            book=toy('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)'),
        )


def test_a_folder_of_unlabelled_pictures_goes_through_the_book(tmp_path):
    book, own = tmp_path / 'nbs', tmp_path / 'own'
    for folder in (book, own):
        folder.mkdir()
    for name in ('02a_preprocessing', '03a_model', '04_training'):
        shutil.copy(paper.book_folder() / f'{name}.ipynb', book)
    (book / 'paper.yaml').write_text('quick: {}')
    for i, image in enumerate(phantom(40, size=64, seed=6).images):
        Image.fromarray(image).save(own / f'{i}.png')
    table = paper.regenerate(dataset=str(own), out=tmp_path / 'out', book=book)
    assert [Path(f).stem for f in table.file] == [
        'fig1_dataset',
        'fig2_pipeline',
        'fig3_base_network',
        'fig4_joint_architecture',
        'fig_training_curves',
        'manifest',
    ]
    assert {
        record.get('dataset')
        for record in json.loads((tmp_path / 'out' / 'manifest.json').read_text())['figures'].values()
    } == {'folder own', 'none: drawn from the network'}


def test_folders_that_cannot_be_written(toy, read_only):
    with pytest.raises(ParameterError, match='expected a folder that can be written, on a disk with room'):
        paper.regenerate(dataset='phantom', out=read_only, book=toy('0'))


def test_a_log_that_a_full_disk_left_empty(small_disk):
    "Two notebooks run at once: one fills the disk, and of the other not even the reason can be written."
    log = small_disk / 'temporary' / '00_draw.log'
    log.parent.mkdir()
    log.touch()
    said = paper._explain_failure('00_draw.ipynb', small_disk / '00_draw.ipynb', log)
    assert said == '00_draw.ipynb failed: papermill ended without a word'
    with pytest.raises(OSError, match='No space left'):
        (small_disk / 'big').write_bytes(bytes(10**6))
    said = paper._explain_failure('00_draw.ipynb', small_disk / '00_draw.ipynb', log)
    assert said == f'00_draw.ipynb failed: No space left on the disk of {small_disk}'


def test_a_full_disk_leaves_the_earlier_figures(toy, small_disk):
    paper.regenerate(dataset='phantom', out=small_disk, book=toy('0'))
    before = contents(small_disk)
    with pytest.raises((paper.BookError, ParameterError, OSError), match='No space left'):
        paper.regenerate(
            dataset='phantom',
            out=small_disk,
            book=toy('open("../figures/big.png", "wb").write(bytes(10**6))', height=1),
        )
    assert contents(small_disk) == before
    assert (
        json.loads((small_disk / 'manifest.json').read_text())['figures']['fig0_toy']['notebook']
        == '00_draw.ipynb'
    )
