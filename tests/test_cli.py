"""`blood-unet segment` against disks and folders; what it says about cells is tested in the notebooks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blood_unet import files
from blood_unet.segment import segment_files
from blood_unet.core import ParameterError
from blood_unet.data import phantom

from conftest import MODEL


@pytest.fixture
def slide(tmp_path):
    folder = tmp_path / 'slide'
    folder.mkdir()
    for i, image in enumerate(phantom(6, size=128, seed=3).images):
        Image.fromarray(image).save(folder / f'cell{i}.png')
    return folder


def run(*arguments):
    return subprocess.run(
        [Path(sys.executable).parent / 'blood-unet', *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_segment_as_a_command(slide, tmp_path):
    (slide / 'bad.png').write_text('no picture')
    done = run('segment', slide, '--out', tmp_path / 'out', '--model', MODEL)
    assert done.returncode == 1
    assert '6 images segmented, 1 failed' in done.stdout
    assert 'bad.png' in done.stderr and 'Traceback' not in done.stderr
    assert len(list((tmp_path / 'out').iterdir())) == 3 * 6 + 2  # cells.csv, differential.csv


def test_nothing_to_do_is_an_error(tmp_path):
    done = run('segment', tmp_path / 'none.png', '--out', tmp_path / 'out', '--model', MODEL)
    assert done.returncode == 1 and 'does not exist' in done.stderr
    done = run('segment', tmp_path, '--out', tmp_path / 'out', '--model', 'blood-unet-1')
    assert done.returncode == 1 and "got 'blood-unet-1'" in done.stderr and 'Traceback' not in done.stderr


def test_read_only_output(slide, read_only):
    done = run('segment', slide, '--out', read_only, '--model', MODEL)
    assert done.returncode == 1
    assert 'got output folder' in done.stderr and 'expected a folder that can be written' in done.stderr
    assert 'Traceback' not in done.stderr
    assert list(read_only.iterdir()) == []


def test_full_disk(slide, small_disk):
    done = run('segment', slide, '--out', small_disk, '--model', MODEL)
    assert done.returncode == 1
    assert 'No space left' in done.stderr and 'Traceback' not in done.stderr
    check_whole(small_disk)


@pytest.mark.parametrize('broken', range(1, 9))
def test_disk_full_at_any_write(slide, tmp_path, monkeypatch, broken):
    count = 0

    def fsync(handle):
        nonlocal count
        count += 1
        if count > broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, 'fsync', fsync)
    with pytest.raises(ParameterError, match='No space left'):
        segment_files(slide, tmp_path / 'out', model=MODEL)
    check_whole(tmp_path / 'out')


def check_whole(folder):
    "Every file is readable, every image has all its three pictures or none, and no temporary file is left."
    names = [path.name for path in folder.iterdir()]
    assert not [name for name in names if name.startswith('.')], names
    for path in folder.glob('*.png'):
        np.asarray(Image.open(path))
    for stem in {name.rsplit('_', 1)[0] for name in names if name.endswith('.png')}:
        assert {f'{stem}_{kind}.png' for kind in ('nucleus', 'cell', 'overlay')} <= set(names), names


def test_an_earlier_table_survives_a_failure(slide, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    segment_files(slide, out, model=MODEL)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, 'replace', full)
    with pytest.raises(ParameterError):
        segment_files(slide, out, model=MODEL)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
