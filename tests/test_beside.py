"""A smear beside a healthy one by the command: which classes are too many, or a refusal before any work."""

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from blood_unet.cli import app
from blood_unet.phantom import draw_field
from conftest import MODEL


def segment(*words):
    how = ('--model', MODEL, '--device', 'cpu')
    return CliRunner().invoke(app, ['segment', *map(str, words), *how])


@pytest.fixture(scope='module')
def healthy(tmp_path_factory):
    "A field of nine drawn cells, and its results."
    home = tmp_path_factory.mktemp('healthy')
    Image.fromarray(draw_field((0, 1, 4, 4, 5, 6, 6, 6, 6))[0]).save(home / 'field.png')
    assert segment(home / 'field.png', '--out', home / 'out').exit_code == 0
    return home


def test_beside_itself_nothing_is_too_many(healthy, tmp_path):
    done = segment(healthy / 'field.png', '--out', tmp_path / 'out', '--beside', healthy / 'out')
    assert done.exit_code == 0, done.output
    n = pd.read_csv(healthy / 'out' / 'differential.csv').cells.sum()
    last = done.output.splitlines()[-2:]
    assert last[0].startswith(f'{n} white cells beside {n} white cells') and 'no class is too many' in last[1]
    compared = pd.read_csv(tmp_path / 'out' / 'compared.csv')
    assert (compared['share'] == compared.reference).all() and not compared.too_high.any()


def test_what_is_above_its_limit_is_named(healthy, tmp_path):
    counts = pd.read_csv(healthy / 'out' / 'differential.csv').set_index('class').cells
    most = counts.idxmax()
    limits = pd.Series(1.0, counts.index, name='limit')
    limits[most] = 0.0
    limits.to_csv(tmp_path / 'limits.csv')
    done = segment(healthy / 'field.png', '--out', tmp_path / 'out', '--beside', tmp_path / 'limits.csv')
    assert done.exit_code == 0, done.output
    compared = pd.read_csv(tmp_path / 'out' / 'compared.csv').set_index('class')
    assert compared.p[most] == compared.p.min() and compared.p.drop(most).min() > 0.5
    assert compared.too_high[most] == (f'{most} ' in done.output.split('nothing:')[1])


@pytest.mark.parametrize(
    'text, words', [('class,number\nmonocyte,3\n', 'with columns class, number'), (None, 'cannot be read')]
)
def test_a_bad_reference_is_refused_before_the_work(healthy, tmp_path, text, words):
    if text is not None:
        (tmp_path / 'usual.csv').write_text(text)
    done = segment(healthy / 'field.png', '--out', tmp_path / 'out', '--beside', tmp_path / 'usual.csv')
    assert done.exit_code == 1 and words in str(done.exception)
    assert not (tmp_path / 'out').exists()
