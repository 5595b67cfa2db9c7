"""The ledger of claims: judged on what is here, found in an installed package, its verdicts computed."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blood_unet.claims import ledger, record_digests, stale
from blood_unet.core import DataError
from blood_unet.ledger import claims_file, find_evidence, read_claims

TOP = Path(__file__).parent.parent
REMEDY = (
    'read the rows again, then: python -c "from blood_unet.claims import record_digests; record_digests()"'
)
VERDICTS = {'supported', 'contradicted', 'undecided', 'partly', 'untestable', 'not measured'}


@pytest.fixture(scope='module')
def rows():
    return ledger()


def test_the_ledger_was_judged_on_what_is_here():
    assert not stale(), f'{stale()}: {REMEDY}'


def test_the_numbers_of_figures_are_those_that_were_drawn():
    "Only where a figure shows the same cells: whoever draws it on his own cells is not compared."
    kept = json.loads((TOP / 'bench' / 'results' / 'figures.json').read_text())
    figures = json.loads((TOP / 'figures' / 'manifest.json').read_text())['figures']
    bench = runpy.run_path(str(TOP / 'bench' / 'figures.py'))
    same = 0
    for name, numbers in kept.items():
        about = numbers.pop('about')
        data = ('dataset', 'digest', 'checkpoint')
        if all(figures[name].get(key) == about.get(key) for key in data) and not figures[name]['phantom']:
            assert bench['taken'](figures)[name] == numbers, f'{name}: run bench/figures.py, {REMEDY}'
            same += 1
    assert same, 'no figure of figures/ shows the cells of bench/results/figures.json'


def test_sixty_rows_have_a_verdict_that_is_computed(rows):
    assert set(rows.verdict) <= VERDICTS
    judged = rows[~rows.name_only & ~rows.verdict.isin(['not measured', 'untestable'])]
    assert len(judged) >= 60 and judged.says.is_unique
    text = claims_file().read_text(encoding='utf-8')
    assert 'verdict: ' not in text


def test_every_row_of_a_network_says_so(rows):
    networks = rows[(rows.judged == 'our measurement') & (rows.verdict != 'not measured')]
    assert all('ours' in scope or 'network' in scope or 'none' in scope for scope in networks.scope)
    assert rows.compute.str.len().min() > 0


@pytest.fixture
def checkout(tmp_path):
    "A copy of what the ledger needs of a checkout, whose files may be changed."
    for part in ('blood_unet', 'bench/results'):
        shutil.copytree(TOP / part, tmp_path / part, ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path / 'nbs').mkdir()
    shutil.copy(TOP / 'nbs' / 'claims.yaml', tmp_path / 'nbs')

    def ask(code):
        env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
        code = f'from blood_unet.claims import *; from blood_unet.ledger import *; {code}'
        return subprocess.run(
            [sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    ask.folder = tmp_path
    return ask


VERDICT = "print(ledger().set_index('id').verdict['ensemble-helps'])"


def test_a_results_file_that_changes_is_seen_and_changes_the_verdict(checkout):
    assert checkout(f'print(stale()); {VERDICT}').stdout.split('\n')[:2] == ['[]', 'supported']
    path = checkout.folder / 'bench' / 'results' / 'variants.json'
    made = json.loads(path.read_text())
    made['variants']['three seeds averaged']['accuracy']['difference'] = dict(
        mean=-0.02, low=-0.03, high=-0.01
    )
    path.write_text(json.dumps(made))
    told = checkout(f'print(stale()); {VERDICT}').stdout.split('\n')
    assert told[:2] == ["['results variants is not what the ledger was judged on']", 'contradicted']
    assert checkout('record_digests(); print(stale())').stdout == '[]\n'


def test_a_bundled_network_that_changes_is_seen(checkout):
    folder = checkout.folder / 'blood_unet' / 'weights' / 'blood-unet-64'
    with (folder / 'model.safetensors').open('ab') as file:
        file.write(b' ')
    told = checkout('print(stale())').stdout
    assert 'weights blood-unet-64 is not what the ledger was judged on' in told


def test_evidence_that_is_missing_is_refused_with_its_line(checkout):
    (checkout.folder / 'bench' / 'results' / 'variants.json').unlink()
    done = checkout('ledger()')
    assert done.returncode and 'claims.yaml, line' in done.stderr and 'DataError' in done.stderr


def test_the_ledger_of_an_installed_package(checkout):
    book = checkout.folder / 'blood_unet' / 'book'
    book.mkdir()
    shutil.move(checkout.folder / 'nbs' / 'claims.yaml', book)
    shutil.move(checkout.folder / 'bench' / 'results', book / 'results')
    done = checkout('print(stale(), len(ledger()), claims_file().parent.name)')
    assert done.stdout == f'[] {len(ledger())} book\n', done.stderr


def test_a_number_out_of_tolerance_changes_the_verdict(tmp_path):
    text = claims_file().read_text(encoding='utf-8')
    claims = read_claims()
    line = next(r for r in claims.rows if r['id'] == 'ensemble-helps')['readings'][0].lines['tolerance']
    lines = text.split('\n')
    assert lines[line - 1].strip() == 'tolerance: {above: 0}'
    lines[line - 1] = lines[line - 1].replace('above: 0', 'above: 0.5')
    (tmp_path / 'claims.yaml').write_text('\n'.join(lines), encoding='utf-8')
    told = ledger(read_claims(tmp_path / 'claims.yaml')).set_index('id')
    assert told.verdict['ensemble-helps'] == 'contradicted'


def test_record_digests_changes_nothing_but_digests(tmp_path):
    shutil.copy(claims_file(), tmp_path)
    record_digests(tmp_path / 'claims.yaml')
    assert (tmp_path / 'claims.yaml').read_text() == claims_file().read_text()


def test_a_results_file_without_an_interval_is_refused():
    reading = next(r for r in read_claims().rows if r['id'] == 'ensemble-helps')['readings'][0]
    reading['evidence'][0]['path'] = ['variants']
    with pytest.raises(DataError, match='claims.yaml, line'):
        find_evidence(reading, read_claims())
