"""The ledger of claims: judged on what is here, found in an installed package, its verdicts computed."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blood_unet.claims import claims_text, ledger, record_digests, stale
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


# the command

KEYS = {'id', 'section', 'verdict', 'plain_verdict', 'value', 'low', 'high', 'tolerance', 'evidence'}
COMMAND = 'from blood_unet.cli import main; main()'
STRUCK = f"""import os, signal
replace = os.replace
def struck(*paths):
    {{strike}}
os.replace = struck
{COMMAND}"""


def command(*words, code=COMMAND):
    "`blood-unet claims` in a process of its own."
    told = [sys.executable, '-c', code, 'claims', *map(str, words)]
    return subprocess.run(
        told, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(TOP)}, timeout=300
    )


def test_the_command_shows_every_statement_and_counts_the_verdicts(rows):
    done = command()
    lines = done.stdout.rstrip('\n').split('\n')
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert 80 <= max(map(len, lines)) <= 120
    told = rows[~rows.name_only]
    words = {line.split()[0]: line for line in lines if line}
    for row in told.itertuples():
        assert words[row.id].startswith(f'{row.id:24}{row.kindest:13}{row.plain:13}{row.verdict:13}')
    heads = next(line for line in lines if line.startswith(f'{len(told)} STATEMENTS')).split('STATEMENTS')[1]
    heads = [said.strip() for said in heads.split('  ') if said]
    for kind, said in (('kindest', 'read kindest'), ('plain', 'read plainly'), ('verdict', 'all readings')):
        (line,) = [line for line in lines if line.startswith(f'{said}  ')]
        shown = dict(zip(heads, map(int, line.removeprefix(said).split())))
        counted = told[kind].value_counts().to_dict()
        assert {name: n for name, n in shown.items() if n} == counted
    assert not (TOP / 'claims.json').exists()


def test_the_command_keeps_them_as_json(rows, tmp_path):
    done = command('--out', tmp_path / 'new' / 'folder')
    assert done.returncode == 0 and 'claims.json holds them' in done.stdout, done.stderr
    kept = json.loads((tmp_path / 'new' / 'folder' / 'claims.json').read_text())
    told = rows[~rows.name_only]
    assert [row['id'] for row in kept] == told.id.tolist()
    begins = tuple(VERDICTS - {'not measured'})
    for row, verdict, value in zip(kept, told.verdict, told.value):
        assert set(row) == KEYS
        assert row['verdict'].startswith(begins) and row['plain_verdict'].startswith(begins)
        assert row['verdict'] == verdict.replace('not measured', 'undecided: not measured')
        assert (row['value'] is None) == (value != value) == (row['evidence'] is None)
        assert row['value'] is None or row['low'] <= row['value'] <= row['high']
    assert [path.name for path in (tmp_path / 'new' / 'folder').iterdir()] == ['claims.json']


def test_out_that_is_no_folder_is_refused_before_anything_is_shown(tmp_path):
    (tmp_path / 'file').write_text('mine')
    done = command('--out', tmp_path / 'file')
    assert (done.returncode, done.stdout, (tmp_path / 'file').read_text()) == (1, '', 'mine')
    assert 'got output folder' in done.stderr and 'expected a folder that can be written' in done.stderr
    assert 'Traceback' not in done.stderr
    assert command('--out').returncode == 2


@pytest.mark.parametrize(
    'strike, status',
    [
        ('os.kill(os.getpid(), signal.SIGKILL)', {-9}),
        ('os.kill(os.getpid(), signal.SIGTERM)', {1, 130}),
        ("raise OSError(28, 'No space left on device')", {1}),
    ],
    ids=['killed', 'terminated', 'full disk'],
)
def test_nothing_is_half_written(tmp_path, strike, status):
    def left(ours=False):
        names = [path.name for path in tmp_path.iterdir() if ours or not path.name.startswith('.')]
        return {name: (tmp_path / name).read_text() for name in names}

    killed = status == {-9}
    struck = STRUCK.format(strike=strike)
    assert command('--out', tmp_path, code=struck).returncode in status and left(not killed) == {}
    (tmp_path / 'claims.json').write_text('earlier')
    assert command('--out', tmp_path, code=struck).returncode in status
    assert left(not killed) == {'claims.json': 'earlier'}
    if killed:
        assert len(left(True)) == 2, 'the second left a temporary file, and took that of the first away'
        assert command('--out', tmp_path).returncode == 0
        assert len(json.loads(left(True).pop('claims.json'))) == 94 and len(left(True)) == 1


def test_the_command_of_an_installed_package(checkout):
    book = checkout.folder / 'blood_unet' / 'book'
    book.mkdir()
    shutil.move(checkout.folder / 'nbs' / 'claims.yaml', book)
    shutil.move(checkout.folder / 'bench' / 'results', book / 'results')
    shown = checkout('print(tell_claims("out"))')
    assert shown.stdout.startswith(claims_text(ledger())), shown.stderr
    assert json.loads((checkout.folder / 'out' / 'claims.json').read_text())


def test_a_package_without_its_ledger_says_what_it_needs(checkout):
    (checkout.folder / 'nbs' / 'claims.yaml').unlink()
    done = checkout(f"import sys; sys.argv = ['blood-unet', 'claims']; {COMMAND}")
    assert done.returncode == 1 and "no claims.yaml beside or inside" in done.stderr
    assert 'install blood_unet again' in done.stderr


def test_without_pyyaml_the_command_says_how_to_get_it(tmp_path):
    done = command('--out', tmp_path, code=f"import sys; sys.modules['yaml'] = None; {COMMAND}")
    assert done.returncode == 1 and 'pip install "blood_unet[notebooks]"' in done.stderr
    assert 'Traceback' not in done.stderr and not list(tmp_path.iterdir())
