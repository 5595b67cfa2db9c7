"""The public expert sets from a network that is a folder: pinned, fetched, found changed."""

import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pooch
import pytest
from PIL import Image

from blood_unet import data, experts
from blood_unet.core import DataError, sha256_file

TOP = Path(__file__).parent.parent


@pytest.fixture
def published(tmp_path, monkeypatch):
    "Two pictures as their authors would publish them, and the list that pins them; returns both."
    root, pictures = (
        tmp_path / 'published',
        np.random.default_rng(0).integers(0, 255, (2, 12, 14, 3), np.uint8),
    )
    masks = np.zeros((2, 12, 14), np.uint8)
    masks[:, 2:9, 2:9], masks[:, 4:6, 4:6] = 128, 255
    (root / 'Dataset 2').mkdir(parents=True)
    (root / 'Class Labels of Dataset 2.csv').write_text('image ID,class\n11,5\n4,1\n')
    names = ['Class Labels of Dataset 2.csv']
    for number, picture, mask in zip((4, 11), pictures, masks):
        for end, array in (('bmp', picture), ('png', mask)):
            names.append(f'Dataset 2/{number:03d}.{end}')
            Image.fromarray(array).save(root / names[-1])
    grey = [m // 128 * 127 + (m == 255) * np.uint8(127) for m in masks]
    digests = dict(images=list(pictures), masks=grey, classes=np.array([6, 0]))
    converted = {part: experts.sha256_arrays(arrays) for part, arrays in digests.items()}
    pinned = tmp_path / 'expert_files.json'
    about = dict(commit='f' * 40, cellavision=dict(converted=converted, files=dict.fromkeys(names)))
    pinned.write_text(json.dumps(about))

    def copy(url, output, _):
        file = url.partition('f' * 40 + '/')[2].replace('%20', ' ')
        shutil.copy(root / file, output)

    monkeypatch.setattr(experts, '_pinned', lambda: json.loads(pinned.read_text()))
    monkeypatch.setattr(pooch, 'HTTPDownloader', lambda timeout: copy)
    monkeypatch.setattr(data, '_failed', {})
    monkeypatch.setenv('BLOOD_UNET_DATA', '')
    monkeypatch.setenv('BLOOD_UNET_OFFLINE', '0')
    monkeypatch.chdir(tmp_path)
    return root, pinned


def test_a_set_that_is_asked_for_comes_by_itself_and_once(published, capsys):
    root, _ = published
    cells = experts.load_expert('cellavision')
    assert cells.names == ['004.png', '011.png'] and list(cells.labels) == [6, 0]
    assert experts.load_expert('cellavision', 'report').names == ['011.png']
    assert [int(mask.sum()) for mask in (cells.nucleus[0], cells.cell[0])] == [4, 49]
    assert np.array_equal(cells.images[1], np.array(Image.open(root / 'Dataset 2' / '011.bmp')))
    assert sorted(os.listdir('data/wbc')) == ['cellavision']
    shutil.rmtree(root)
    assert experts.load_expert('cellavision').digest == cells.digest
    assert experts.expert_sets(download=False) == ['cellavision']
    assert capsys.readouterr().out.count('5 files from github.com/zxaoyou/segmentation_WBC') == 1


def test_checksums_are_written_down_once_the_set_is_the_right_one(published, monkeypatch):
    root, pinned = published
    program = runpy.run_path(str(TOP / 'bench' / 'pin_experts.py'))
    program['main'].__globals__['LIST'] = pinned
    program['main']()
    files = json.loads(pinned.read_text())['cellavision']['files']
    assert files == {file: sha256_file(root / file) for file in files}

    picture = root / 'Dataset 2' / '004.bmp'
    picture.write_bytes(bytes([*picture.read_bytes()[:-9], *bytes(9)]))  # other pixels in the last row
    with pytest.raises(DataError, match='no download of cellavision .ValueError.'):
        experts.download_expert('cellavision')
    pinned.write_text(pinned.read_text().replace(files['Dataset 2/004.bmp'], sha256_file(picture)))
    with pytest.raises(DataError, match='images of cellavision that are not those of the book'):
        program['main']()
    assert files['Dataset 2/011.bmp'] in pinned.read_text(), 'the list stays'
    assert not list((Path('data') / 'wbc').iterdir())
