"""Pictures, masks and tables of other tools, by the commands and functions that a user calls."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from blood_unet.core import DataError, GuessWarning, LeftOutWarning
from blood_unet.data import load_cells, load_folder, phantom
from blood_unet.scorecard import scorecard_files
from blood_unet.segment import segment_files
from conftest import MODEL

COMMAND = [sys.executable, '-c', 'from blood_unet.cli import main; main()']
FEW = dict(model=MODEL, metrics=('deletion', 'exact Shapley'), device='cpu')


def run(*arguments):
    "A command in a process of its own."
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


def cells(folder, n=3, size=28):
    "Drawn cells as files a.png, b.png ...; returns the `Cells`."
    folder.mkdir(parents=True, exist_ok=True)
    drawn = phantom(n, size=size, seed=5)
    for name, image in zip('abcdefgh', drawn.images):
        Image.fromarray(image).save(folder / f'{name}.png')
    return drawn


def mask_files(folder, drawn, write, ending='png'):
    "STEM_nucleus and STEM_cell of drawn cells, each written by `write(mask, path)`."
    folder.mkdir()
    for name, nucleus, cell in zip('abcdefgh', drawn.nucleus, drawn.cell):
        write(nucleus, folder / f'{name}_nucleus.{ending}')
        write(cell | nucleus, folder / f'{name}_cell.{ending}')
    return folder


def palette(mask, path):
    picture = Image.fromarray(mask.astype(np.uint8), mode='P')
    picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(path)


def red(mask, path):
    Image.fromarray(mask[..., None] * np.uint8([255, 0, 0])).save(path)


def white(mask, path):
    Image.fromarray(np.uint8(255 * mask)).save(path)


def numbered(mask, path):
    tifffile.imwrite(path, mask.astype(np.int32) * 7)


def opacity(mask, path):
    Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), np.uint8(255 * mask)])).save(path)


WAYS = {
    'ones': (lambda mask, path: Image.fromarray(np.uint8(mask)).save(path), 'png'),
    'bits': (lambda mask, path: Image.fromarray(mask).save(path), 'png'),
    'palette': (palette, 'png'),
    'red on black': (red, 'png'),
    'numbers': (numbered, 'tif'),
    'opacity': (opacity, 'png'),
}


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    "Drawn cells, their folder, and the scorecard's tables with masks of 0 and 255."
    home = tmp_path_factory.mktemp('reference')
    drawn = cells(home / 'cells')
    masks = mask_files(home / 'masks', drawn, white)
    scorecard_files(home / 'cells', home / 'out', masks, **FEW)
    return drawn, home, pd.read_csv(home / 'out' / 'scorecard.csv')


@pytest.mark.parametrize('way', WAYS)
def test_masks_of_other_tools_give_the_same_scorecard(reference, tmp_path, way):
    drawn, home, expected = reference
    write, ending = WAYS[way]
    masks = mask_files(tmp_path / 'masks', drawn, write, ending)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', GuessWarning)
        scorecard_files(home / 'cells', tmp_path / 'out', masks, **FEW)
    found = pd.read_csv(tmp_path / 'out' / 'scorecard.csv')
    timed = ~expected.metric.isin(['seconds'])
    pd.testing.assert_frame_equal(found[timed], expected[timed])


def test_the_command_says_how_masks_were_read_and_refuses_black_on_white(reference, tmp_path):
    drawn, home, _ = reference
    masks = mask_files(tmp_path / 'masks', drawn, opacity)
    arguments = ['scorecard', '--images', home / 'cells', '--out', tmp_path / 'out', '--model', MODEL]
    done = run(*arguments, '--masks', masks, '--device', 'cpu')
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        'masks: the opacity is the mask (a_nucleus.png, a_cell.png, b_nucleus.png and 3 more)'
    ]
    wrong = mask_files(tmp_path / 'wrong', drawn, lambda mask, path: white(~mask, path))
    refused = run(*arguments, '--masks', wrong, '--device', 'cpu')
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert 'a_nucleus.png, which covers 100% of the border' in refused.stderr
    assert 'if it is black on white, invert it' in refused.stderr


def test_swapped_and_foreign_masks_are_refused(reference, tmp_path):
    drawn, home, _ = reference
    swapped, foreign = tmp_path / 'swapped', tmp_path / 'foreign'
    for folder, nuclei, wholes in (
        (swapped, drawn.cell, drawn.nucleus),
        (foreign, drawn.nucleus, np.pad(drawn.cell, ((0, 0), (18, 0), (0, 0)))[:, :-18]),
    ):
        folder.mkdir()
        for name, nucleus, cell in zip('abc', nuclei, wholes):
            white(nucleus, folder / f'{name}_nucleus.png')
            white(cell, folder / f'{name}_cell.png')
        with pytest.raises(DataError, match='a nucleus that lies in its cell'):
            scorecard_files(home / 'cells', tmp_path / 'out', folder, **FEW)


def test_a_hot_pixel_changes_no_result(tmp_path):
    drawn = cells(tmp_path / 'A', n=1, size=64)
    pixels = np.rint(drawn.images[0] / 255 * 4095).astype(np.uint16)
    (tmp_path / 'B').mkdir()
    tifffile.imwrite(tmp_path / 'B' / 'plain.tif', pixels)
    pixels[2, 2] = 65535
    tifffile.imwrite(tmp_path / 'B' / 'hot.tif', pixels)
    for folder in 'AB':
        done = run('segment', tmp_path / folder, '--out', tmp_path / f'o{folder}', '--model', MODEL)
        assert done.returncode == 0, done.stderr
    masks = {
        path.name: np.asarray(Image.open(path)) for path in sorted((tmp_path / 'oB').glob('*_nucleus.png'))
    }
    expected = np.asarray(Image.open(tmp_path / 'oA' / 'a_nucleus.png'))
    assert expected.any()
    # the reader gives back the plain picture to the bit; a white pixel in the corner moves no outline
    assert {name: (mask != expected).sum() for name, mask in masks.items()} == {
        'hot_nucleus.png': 0,
        'plain_nucleus.png': 0,
    }
    said = pd.read_csv(tmp_path / 'oB' / 'cells.csv').set_index('stem').warning
    assert 'input: 12 bits in 16, 1 hot pixel cut off' in said['hot']
    assert 'hot' not in said['plain']


@pytest.mark.parametrize(
    'text',
    [
        'sep=;\r\nFile;Class\r\nA.PNG;Monocytes\r\n.\\b.png;MO\r\nC;monocyte\r\n',
        'class\tfile\nmonocyte\t/elsewhere/a.png\nmonocyte\tb.png\nmonocyte\tc.png\nmonocyte\tb.png\n',
    ],
)
@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_table_of_labels_as_other_programs_write_it(tmp_path, text, coding):
    cells(tmp_path)
    (tmp_path / 'Labels.csv').write_bytes(text.encode(coding))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert load_folder(tmp_path).labels.tolist() == [5, 5, 5]


def test_a_table_with_gaps_is_told_once_and_gives_no_labels(tmp_path):
    cells(tmp_path)
    (tmp_path / 'labels.csv').write_text('file,class\na.png,monocyte\nb.png,\nz.png,monocyte\n')
    with pytest.warns(LeftOutWarning) as caught:
        assert load_folder(tmp_path).labels is None
    (said,) = [str(warning.message) for warning in caught]
    assert 'no class for 2 of 3 images (b.png, c.png)' in said
    assert 'files that are not among the images (z.png)' in said
    with warnings.catch_warnings():  # who asks for no labels hears nothing of them
        warnings.simplefilter('error')
        load_folder(tmp_path, labels=False)


def test_a_table_that_says_two_things_is_refused_wherever_labels_count(tmp_path):
    cells(tmp_path)
    (tmp_path / 'labels.csv').write_text('file,class\na.png,monocyte\n./a.png,platelet\n')
    for read in (load_folder, lambda path: load_cells(path, 'train', size=28)):
        with pytest.raises(DataError, match=r'a.png in labels.csv as monocyte \(line 2\) and platelet'):
            read(tmp_path)
    told = scorecard_files(tmp_path, tmp_path / 'out', **FEW)  # labels do not count here
    assert len(told) > 0


def test_what_stands_for_a_table_and_is_none(tmp_path):
    cells(tmp_path)
    for make in (
        lambda path: path.mkdir(),
        lambda path: path.symlink_to('nowhere'),
        lambda path: path.write_bytes(b'PK\3\4\0\0'),
        lambda path: path.write_bytes(b''),
    ):
        path = Path(tmp_path, 'labels.csv')
        make(path)
        with pytest.raises(DataError, match='labels.csv'):
            load_folder(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_a_table_that_may_not_be_read(tmp_path):
    cells(tmp_path)
    (tmp_path / 'labels.csv').write_text('file,class\n')
    (tmp_path / 'labels.csv').chmod(0)
    with pytest.raises(DataError, match='labels.csv, unreadable'):
        load_folder(tmp_path)


def test_segment_files_says_what_a_picture_lost(tmp_path):
    drawn = cells(tmp_path / 'A', n=1, size=40)
    gray = np.repeat(drawn.images[0][..., 1:2], 3, 2)
    gray[3, 3] = 255, 0, 0
    Image.fromarray(gray).save(tmp_path / 'A' / 'gray.png')
    done = segment_files(tmp_path / 'A' / 'gray.png', tmp_path / 'o', model=MODEL)
    assert done.table.warning[0].startswith('input: gray')
