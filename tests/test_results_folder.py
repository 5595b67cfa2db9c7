"""A folder of results that several runs write, from several places, at once.

Nothing is lost, nothing is another's.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from blood_unet.core import LeftOutWarning, ParameterError, sha256_file
from blood_unet.data import load_folder, phantom
from blood_unet.explain import explain_files
from blood_unet.folders import UNFINISHED, find_images
from blood_unet.segment import segment_files
from conftest import MODEL

FAST = dict(method='probability', model=MODEL)  # one forward


def cells(folder, names, seed=0):
    "One drawn cell a name."
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, phantom(len(names), size=40, seed=seed).images):
        Image.fromarray(image).save(folder / name, format='PNG')
    return folder


def table(path):
    "A table with all its words as they are."
    return pd.read_csv(path, keep_default_na=False)


def contents(folder):
    return {path.name: sha256_file(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    'run', [lambda p, o: segment_files(p, o, model=MODEL), lambda p, o: explain_files(p, o, **FAST)]
)
def test_another_picture_of_the_same_name_is_refused(tmp_path, run):
    for name in 'AB':
        cells(tmp_path / name, ['x.png'], seed=ord(name))
    run(tmp_path / 'A' / 'x.png', tmp_path / 'o')
    before = contents(tmp_path / 'o')
    with pytest.raises(ParameterError, match='which holds results of .*A/x.png under the names of these'):
        run(tmp_path / 'B' / 'x.png', tmp_path / 'o')
    assert contents(tmp_path / 'o') == before


def test_two_targets_stand_side_by_side(tmp_path):
    picture = cells(tmp_path / 'A', ['x.png']) / 'x.png'
    for target in ('nucleus', 'class', 'immature granulocyte'):
        explain_files(picture, tmp_path / 'o', target=target, **FAST)
    rows = table(tmp_path / 'o' / 'explanations.csv')
    names = ['x_probability', 'x_class_probability', 'x_immature-granulocyte_probability']
    assert rows['map'].unique().tolist() == names
    assert {path.name for path in (tmp_path / 'o').glob('*.npy')} == {f'{name}.npy' for name in names}
    explain_files(picture, tmp_path / 'o', target='class', **FAST)
    assert len(table(tmp_path / 'o' / 'explanations.csv')) == len(rows), 'the same again replaces itself'


def test_maps_of_two_files_that_begin_alike(tmp_path):
    pictures = [cells(tmp_path / name, ['x.png'], seed=ord(name)) / 'x.png' for name in 'AB']
    for picture, target in zip(pictures, ('basophil', 'class')):
        explain_files(picture, tmp_path / 'o', target=target, **FAST)
    explain_files(pictures, tmp_path / 'o', target='monocyte', **FAST)
    maps = table(tmp_path / 'o' / 'explanations.csv').drop_duplicates('map').set_index('map').file
    assert maps.map(lambda file: Path(file).parent.name).to_dict() == {
        'x_basophil_probability': 'A',
        'x_class_probability': 'B',
        'x_monocyte_probability': 'A',
        'x_png_monocyte_probability': 'B',
    }


def test_identity_is_the_file_not_the_path(tmp_path, monkeypatch):
    for name in ('slide1', 'slide2'):
        cells(tmp_path / name / 'cells', ['x.png'], seed=len(name) + ord(name[-1]))
    monkeypatch.chdir(tmp_path / 'slide1')
    segment_files('cells/x.png', '../o', model=MODEL)
    first = contents(tmp_path / 'o')
    # the same file by its absolute path
    segment_files(tmp_path / 'slide1' / 'cells' / 'x.png', '../o', model=MODEL)
    assert contents(tmp_path / 'o') == first
    monkeypatch.chdir(tmp_path / 'slide2')
    with pytest.raises(ParameterError, match='slide1/cells/x.png under the names of these'):
        segment_files('cells/x.png', '../o', model=MODEL)
    assert contents(tmp_path / 'o') == first


WORDS = ['NA.png', 'null.png', 'nan.png', 'None.png', '007.png', '1e5.png', 'True.png', '-inf.png']


def test_names_that_a_table_reads_as_something_else(tmp_path):
    folder = cells(tmp_path / 'A', WORDS)
    for _ in range(2):
        segment_files(folder, tmp_path / 'o', model=MODEL)
        segment_files(cells(tmp_path / 'B', ['y.png']), tmp_path / 'o', model=MODEL)
    rows = table(tmp_path / 'o' / 'cells.csv')
    assert sorted(rows.stem.astype(str)) == sorted([Path(name).stem for name in WORDS] + ['y'])
    with pytest.raises(ParameterError, match='A/NA.png'):
        segment_files(cells(tmp_path / 'C', ['NA.png']), tmp_path / 'o', model=MODEL)


@pytest.mark.skipif(sys.platform != 'linux', reason='file names that are no text')
def test_a_name_that_is_no_text_has_one_row(tmp_path):
    folder = cells(tmp_path / 'A', [os.fsdecode(b'caf\xe9.png')])
    for _ in range(2):
        segment_files(folder, tmp_path / 'o', model=MODEL)
        explain_files(folder, tmp_path / 'e', **FAST)
    assert len(table(tmp_path / 'o' / 'cells.csv')) == 1
    assert len(table(tmp_path / 'e' / 'explanations.csv').file.unique()) == 1


RUN = """import sys
from blood_unet.segment import segment_files
from blood_unet.explain import explain_files
folder, out = sys.argv[1:]
segment_files(folder, out + '/s', model='phantom-28')
explain_files(folder, out + '/e', method='probability', target='class', model='phantom-28')"""


def test_two_runs_at_once(tmp_path):
    for name in 'AB':
        cells(tmp_path / name, [f'{name}{i}.png' for i in range(10)], seed=ord(name))
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    words = [[sys.executable, '-c', RUN, str(tmp_path / name), str(tmp_path)] for name in 'AB']
    runs = [subprocess.Popen(command, env=env) for command in words]
    assert [run.wait(300) for run in runs] == [0, 0]
    rows = table(tmp_path / 's' / 'cells.csv')
    assert sorted(rows.stem) == sorted(f'{name}{i}' for name in 'AB' for i in range(10))
    assert (rows['class'] != '').all() and (rows.warning != UNFINISHED).all()
    assert len(list((tmp_path / 's').glob('*.png'))) == 60
    assert len(table(tmp_path / 'e' / 'explanations.csv').file.unique()) == 20
    assert not [path for path in tmp_path.rglob('.*')], 'no lock is left'


def test_a_stopped_run_gives_back_what_it_had_not_done(tmp_path, monkeypatch):
    folder = cells(tmp_path / 'A', ['a.png', 'b.png'])
    segment_files(folder, tmp_path / 'o', model=MODEL)
    before = contents(tmp_path / 'o')
    import blood_unet.segment as module

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'segment_images', stop)
    with pytest.raises(KeyboardInterrupt):
        segment_files(folder, tmp_path / 'o', model=MODEL)
    counted = {path for path in before if 'differential.csv' in str(path)}  # no count after a stopped run
    assert counted and contents(tmp_path / 'o') == {k: v for k, v in before.items() if k not in counted}


def test_what_a_folder_holds_and_is_not_read_is_named(tmp_path):
    folder = cells(tmp_path / 'A', ['a.png', 'b.jfif', 'c.jpe', 'd', 'e.picture'])
    image = Image.open(folder / 'a.png')
    image.save(folder / 'f.jp2')
    cells(folder / 'sub' / 'deep', ['a.png', 'z.png'])
    (folder / 'notes.txt').write_text('no picture')
    with pytest.warns(
        LeftOutWarning, match=r'1 files that are no pictures \(notes.txt\) and 1 folders.*--recursive'
    ):
        found = find_images(folder)
    assert [path.name for path in found.files] == ['a.png', 'b.jfif', 'c.jpe', 'd', 'e.picture', 'f.jp2']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', LeftOutWarning)
        done = segment_files(folder, tmp_path / 'o', model=MODEL, recursive=True)
        again = segment_files(folder, tmp_path / 'o', model=MODEL, recursive=True)
    assert not done.failed and not again.failed and len(done.table) == len(again.table) == 8
    assert (tmp_path / 'o' / 'sub' / 'deep' / 'a_nucleus.png').is_file()
    assert {'a', 'sub/deep/a', 'sub/deep/z'} <= set(table(tmp_path / 'o' / 'cells.csv').stem)


def test_labels_are_read_and_not_left_out(tmp_path):
    folder = cells(tmp_path / 'A', ['a.png', 'b.png'])
    (folder / 'labels.csv').write_text('file,class\na.png,basophil\nb.png,monocyte\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error', LeftOutWarning)
        assert load_folder(folder).labels.tolist() == [0, 5]


def test_results_inside_the_input_are_no_input(tmp_path):
    folder = cells(tmp_path / 'A', ['a.png'])
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', LeftOutWarning)
            segment_files(folder, folder / 'out', model=MODEL, recursive=True)
    assert len(table(folder / 'out' / 'cells.csv')) == 1


@pytest.mark.parametrize('side', ['left', 'right', 'top', 'bottom'])
def test_a_cell_on_the_border_is_told(side):
    from blood_unet.segment import segment_images

    image = phantom(1, size=96, seed=2).images[0]
    half = dict(left=image[:, 45:], right=image[:, :51], top=image[45:], bottom=image[:51])[side]
    whole, cut = segment_images([image, np.ascontiguousarray(half)], MODEL, 'cpu').table.to_dict('records')
    assert 'cut by the border' not in whole['warning']
    assert cut['warning'].startswith('cut by the border')


def test_explain_says_what_segment_says(tmp_path):
    folder = cells(tmp_path / 'A', ['a.png'])
    Image.open(folder / 'a.png').convert('L').save(folder / 'gray.png')
    said = segment_files(folder, tmp_path / 'o', model=MODEL).table.set_index('file').warning
    told = (
        explain_files(folder, tmp_path / 'e', **FAST).table.drop_duplicates('file').set_index('file').warning
    )
    assert told.to_dict() == said.to_dict() and told.iloc[1].startswith('input: gray')
