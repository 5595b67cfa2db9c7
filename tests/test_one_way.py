"""One way through: the same file by the command, by Python and by the explorer gives the same masks, class
and numbers.
"""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from blood_unet.cli import app
from blood_unet.data import phantom
from blood_unet.explain import explain_cell, make_subject
from blood_unet.explorer import Explorer
from blood_unet.images import read_image
from blood_unet.predict import load_networks, nearest_network
from blood_unet.reference import JUDGED, load_reference
from blood_unet.segment import COLUMNS, segment_images
from blood_unet.smear import cut_frame

SIDES = (
    36,
    90,
)  # px: between the two networks' sizes, where one rule must choose, and a picture that is scaled down


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(params=SIDES)
def picture(request, tmp_path):
    """A file with one cell, which fills a part of it only, so that the class is asked twice where there are
    pixels.
    """
    image = np.full((request.param, request.param, 3), 235, np.uint8)
    side = request.param * 2 // 3
    cell = phantom(3, size=side, seed=4).images[2]
    image[4 : 4 + side, 6 : 6 + side] = cell
    Image.fromarray(image).save(tmp_path / 'x.png')
    return tmp_path / 'x.png'


@pytest.fixture
def explorer(picture, tmp_path):
    "The explorer with the picture opened, as a browser gives it."
    from datetime import datetime, timezone

    shown = Explorer('phantom', 28, 'cpu', samples=64, save_to=tmp_path / 'saved', n_phantoms=8)
    content = picture.read_bytes()
    file = dict(name='x.png', type='image/png', size=len(content), content=memoryview(content))
    shown.upload.value = (file | dict(last_modified=datetime.now(timezone.utc)),)
    assert shown.error is None
    return shown


def test_segment_three_ways(picture, explorer, tmp_path):
    command('segment', picture, '--out', tmp_path / 'out', '--device', 'cpu')
    row = pd.read_csv(tmp_path / 'out' / 'cells.csv', keep_default_na=False).iloc[0]
    python = segment_images([read_image(picture)], device='cpu')
    seen = explorer.view.whole
    for kind in ('nucleus', 'cell'):
        mask = np.asarray(Image.open(tmp_path / 'out' / f'x_{kind}.png')) > 127
        assert mask.any()
        np.testing.assert_array_equal(getattr(python, kind)[0], mask)
        view = explorer.place.view  # the explorer shows the cell alone
        np.testing.assert_array_equal(getattr(seen, kind)[0], cut_frame(mask, view))
    for column in COLUMNS[1:-1]:
        if column == 'anomaly_p':  # there is none without healthy cells of the same microscope
            assert row[column] == '' and np.isnan([python.table[column][0], seen.table[column][0]]).all()
        else:
            assert python.table[column][0] == row[column] == seen.table[column][0], column
    np.testing.assert_array_equal(python.class_probability, seen.class_probability)


def test_a_reference_by_command_and_python(picture, tmp_path):
    healthy = tmp_path / 'healthy'
    healthy.mkdir()
    for i, image in enumerate(phantom(14, size=90, seed=5).images):
        Image.fromarray(image).save(healthy / f'{i}.png')
    command('reference', healthy, '--out', tmp_path / 'own.safetensors', '--device', 'cpu')
    words = 'segment', picture, '--out', tmp_path / 'out', '--device', 'cpu'
    said = command(*words, '--reference', tmp_path / 'own.safetensors')
    row = pd.read_csv(tmp_path / 'out' / 'cells.csv').iloc[0]
    reference = load_reference(tmp_path / 'own.safetensors')
    for given in (reference, tmp_path / 'own.safetensors'):
        found = segment_images([read_image(picture)], device='cpu', reference=given).table
        assert [found[column][0] for column in JUDGED] == [row[column] for column in JUDGED]
    assert 1 / (len(reference) + 1) - 1e-6 <= row.anomaly_p <= 1
    assert f'\np {row.anomaly_p:.3f}: {picture}: {row.anomaly_reason}' in said


@pytest.mark.parametrize('target', ['class', 'basophil'])
def test_explain_three_ways(picture, explorer, tmp_path, target):
    explorer.target.value = target
    assert explorer.error is None and not explorer.view.problem, explorer.view.problem
    image = cut_frame(read_image(picture), explorer.place.view)
    network = nearest_network(load_networks('auto', 'cpu'), min(image.shape[:2]))
    subject = make_subject(image, network)
    for found in (explorer.view.heat, explorer.view.line, explorer.view.shap):
        options = ('--method', found.method, '--target', target, '--samples', 64, '--device', 'cpu')
        command('explain', picture, '--out', tmp_path / found.method, *options)
        rows = pd.read_csv(tmp_path / found.method / 'explanations.csv')
        python = explain_cell(subject, network, found.method, target, samples=64)
        np.testing.assert_array_equal(python.map, found.map)
        for column in ('value', 'low', 'high'):
            np.testing.assert_array_equal(python.table[column], found.table[column])
            np.testing.assert_array_equal(rows[column], found.table[column])
        assert rows.player.tolist() == found.table.player.tolist()
        assert rows.forwards.tolist() == [found.forwards] * len(rows)
