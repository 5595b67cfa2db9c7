"""Sequences of runs against a model of what must lie on the disk.

Hypothesis draws what a person does with a few folders: pictures put there, changed, broken, linked and taken
away; `segment` and `explain` over them from several places into several folders, one after the other or two
at once; runs that are interrupted, killed, or out of disk; results deleted by hand. After every step all
files are compared with what must be there. The networks are fakes that answer at once.
"""

import csv
import errno
import functools
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from blood_unet import cli, explain, files, segment
from blood_unet.core import LeftOutWarning, ParameterError
from blood_unet.data import CLASSES
from blood_unet.folders import UNFINISHED, WRITING
from blood_unet.images import SUFFIXES
from conftest import MODEL

# the fakes


def png(code: int) -> bytes:
    "A picture whose nucleus, by the fakes, has `code` pixels."
    image = np.full((16, 16, 3), 250, np.uint8)
    image.reshape(-1, 3)[:code] = (90, 30, 120)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    return buffer.getvalue()


PICTURES = {code: png(code) for code in range(1, 8)} | {0: b'this is no picture'}


def nucleus_of(image):
    return image[..., 0] < 100


def fake_segmentation(images, networks, device='auto', notes=None):
    "`segment_images` by a threshold."
    meet()
    images = [images] if isinstance(images, np.ndarray) else images
    nuclei = [nucleus_of(image) for image in images]
    chance = np.eye(len(CLASSES))[[int(n.sum()) % len(CLASSES) for n in nuclei]]
    lines = [
        {
            'class': CLASSES[int(p.argmax())],
            **dict(zip(segment.COLUMNS[2:10], p)),
            'nucleus_px': int(n.sum()),
            'nucleus_fraction': round(float(n.mean()), 6),
            'nc_ratio': 1 / 3,
            'nucleus_parts': 1,
            'warning': '',
        }
        for n, p in zip(nuclei, chance)
    ]
    return segment.Segmentation(nuclei, nuclei, chance, pd.DataFrame(lines, columns=segment.COLUMNS[1:-1]))


def fake_explanation(subject, network, method, target, seed=0, samples=512):
    "`explain_cell`: a map that is everywhere the size of the nucleus. Of seven pixels, 'len' has none."
    size = float(nucleus_of(subject.x).sum())
    if method == 'len' and size == 7:
        raise ParameterError('a picture in which the recipe finds no cell', 'one white cell', 'cut it out')
    rows = dict(player=['nucleus', 'background'], value=[size, 0.1 + 0.2])
    table = pd.DataFrame(rows).assign(error=np.nan, low=np.nan, high=np.nan)
    return explain.Explanation(method, target, 'Dice', np.full((16, 16), size), None, table)


class Drawn(Figure):
    "A figure that is saved at once."

    def savefig(self, buffer, **kwargs):
        buffer.write(b'a figure')


NOW = threading.local()  # of a thread: `fault`, what befalls its run, and `barrier`, where it meets another


def meet():
    "Wait, where two runs go at once, for the other."
    if getattr(NOW, 'barrier', None):
        try:
            NOW.barrier.wait(0.05)
        except threading.BrokenBarrierError:
            pass


def load_fakes(*arguments):
    meet()
    return [SimpleNamespace(config=dict(input_size=16))]


class Killed(BaseException):
    "What ends a run at once, as SIGKILL does: after it no file can be touched."


class Fault:
    """What befalls a run at its `when`-th call of a kind.

    'picture': Ctrl-C while a picture's results are made; 'before' and 'after' a file takes its name; 'full':
    a disk that is full from then on; 'kill': the end of the process.
    """

    def __init__(self, kind, when):
        self.kind, self.left, self.struck = kind, when, False

    def at(self, kind):
        if self.kind != kind or (self.struck and kind not in ('full', 'kill')):
            return
        self.left -= 1
        if self.left > 0:
            return
        self.struck = True
        if kind == 'full':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise Killed if kind == 'kill' else KeyboardInterrupt


def befall(*kinds):
    for kind in kinds:
        if getattr(NOW, 'fault', None):
            NOW.fault.at(kind)


def patched(function, before=(), after=()):
    @functools.wraps(function)
    def call(*args, **kwargs):
        befall(*before)
        done = function(*args, **kwargs)
        befall(*after)
        return done

    return call


@pytest.fixture(scope='module', autouse=True)
def fakes():
    with pytest.MonkeyPatch.context() as patch:
        for module in (segment, explain):
            patch.setattr(module, 'load_networks', load_fakes)
            patch.setattr(module, 'segment_images', fake_segmentation)
        patch.setattr(segment, 'batches', functools.partial(segment.batches, most=2))
        patch.setattr(segment, 'overlay', lambda image, *masks: image)
        patch.setattr(segment, 'result_pictures', patched(segment.result_pictures, ['picture']))
        patch.setattr(explain, 'DEFAULT_METHODS', ('len', 'gradcam'))
        patch.setattr(explain, 'make_subject', lambda image, network: SimpleNamespace(x=image))
        patch.setattr(explain, 'named_class', lambda network, x: (0, 0.5))
        patch.setattr(explain, 'explain_cell', fake_explanation)
        patch.setattr(explain, 'draw_explanation', lambda image, found: Drawn())
        patch.setattr(explain, '_explanation_files', patched(explain._explanation_files, ['picture']))
        patch.setattr(files.os, 'fsync', patched(lambda handle: None, ['full', 'kill']))
        patch.setattr(files.os, 'replace', patched(os.replace, ['before', 'kill'], ['after', 'kill']))
        patch.setattr(files.os, 'unlink', patched(os.unlink, ['kill']))
        patch.setattr(files.os, 'open', patched(os.open, ['kill']))
        yield


# what a person does

NAMES = [
    'a.png', 'A.PNG', 'a.bmp', 'a', 'a_png.png', 'a_nucleus.png', 'a_class.png', 'a_gradcam.png',
    'NA.png', 'null.jpg', '1e5.png', '-x.png', 'a,b.png', '"q"\'.png', 'new\nline.png', 're\rturn.png',
    ' space .png', '\u00e9.png', 'e\u0301.png', os.fsdecode(b'caf\xe9.png'), 'n' * 246 + '.png',
    'n' * 246 + '.bmp', 'cells.csv.png', '00001_a.png', 'x.png',
]  # fmt: skip
FOLDERS = ['A', 'B', 'A/sub', 'B/sub', 'B/SUB']
OUTS = ['o', 'o/sub', 'link', 'B/../o', 'A/out', 'A']
STRAYS = ['a_nucleus.png', 'a_gradcam.npy', 'notes.txt', 'x_cell.png']


class Put(NamedTuple):
    "A picture is put into a folder, or changed; 0 is none that can be read."

    folder: str
    name: str
    code: int


class Remove(NamedTuple):
    folder: str
    name: str


class Link(NamedTuple):
    "A link to a picture."

    folder: str
    name: str
    to: str


class Stray(NamedTuple):
    "A file of the user's own where results go."

    out: str
    name: str


class Tidy(NamedTuple):
    "A result is deleted by hand: the one at the place `which` in the list of all."

    which: int


class Run(NamedTuple):
    command: str
    what: list
    out: str
    recursive: bool
    method: str
    target: str
    cwd: str
    fault: tuple


class Both(NamedTuple):
    "Two runs at once."

    one: Run
    other: Run


KINDS = 'put put put run run run run run run both both remove link stray tidy'.split()
FAULTS = [None, None, None, 'picture', 'before', 'after', 'full', 'kill']


@st.composite
def sequences(draw):
    "Up to twelve steps, in a few folders, with a few names and two places for results."

    def one(choices):
        return draw(st.sampled_from(choices))

    def run():
        fault = one(FAULTS)
        return Run(
            one(['segment', 'segment', 'explain']),
            [one([*folders, f'{one(folders)}/{one(names)}']) for _ in range(one([1, 1, 2]))],
            one(outs),
            one([False, False, True]),
            one(['gradcam', 'all']),
            one(['nucleus', 'class']),
            one([None, None, *folders]),
            fault and (fault, one(range(1, 10))),
        )

    def step(kind):
        if kind == 'run':
            return run()
        if kind == 'both':
            return Both(run(), run())
        if kind == 'put':
            return Put(one(folders), one(names), one(range(8)))
        if kind == 'remove':
            return Remove(one(folders), one(names))
        if kind == 'link':
            return Link(one(folders), one(names), f'{one(folders)}/{one(names)}')
        return Stray(one(outs), one(STRAYS)) if kind == 'stray' else Tidy(one(range(30)))

    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    folders = draw(st.lists(st.sampled_from(FOLDERS), min_size=1, max_size=2, unique=True))
    outs = draw(st.lists(st.sampled_from(OUTS), min_size=1, max_size=2, unique=True))
    kinds = ['put', 'put', *draw(st.lists(st.sampled_from(KINDS), min_size=3, max_size=10))]
    return [step(kind) for kind in kinds]


# the model


def spelled(path) -> str:
    "A path as a table can hold it."
    return os.fspath(path).encode(errors='backslashreplace').decode().replace('\r', '\\r')


def says(path):
    "What the fakes find in a file: pixels of the nucleus, or None where there is no picture."
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert('RGB'))
    except (OSError, ValueError):
        return None
    return int(nucleus_of(pixels).sum()) if np.ptp(pixels.reshape(-1, 3), axis=0).any() else None


@functools.lru_cache(64)
def rows_of(content: bytes) -> list:
    "The rows of a table, by two readers that must agree."
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline='')))
    read = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    values = zip(*(read[name] for name in read))
    assert [dict(zip(read, row)) for row in values] == rows, f'two readers, two tables: {content}'
    return rows


def about(row) -> tuple:
    return os.path.realpath(row['file']), row.get('method'), row.get('target')


def files_of(folder, row) -> list:
    "The files of a row."
    if 'stem' in row:
        return [folder / f'{row["stem"]}_{kind}.png' for kind in segment.KINDS] if row['stem'] else []
    return [folder / f'{row["map"]}{ending}' for ending in ('.npy', '.png')] if row['map'] else []


class World:
    """Folders of pictures and results, and what is known about them.

    `own`: content of the files that are the user's, which no run may touch; `spoilt`: results that the user
    deleted or put something in the place of; `dirty`: tables whose run was killed.
    """

    def __init__(self, home):
        self.home, self.own, self.spoilt, self.dirty = home, {}, set(), set()
        for folder in (*FOLDERS, 'o'):
            (home / folder).mkdir(parents=True)
        (home / 'link').symlink_to('o')

    def files(self) -> dict:
        "Every file, and what it holds; of a link, where it goes."
        found = {}
        for folder, _, names in os.walk(self.home):
            for path in (Path(folder, name) for name in names):
                found[path] = os.readlink(path) if path.is_symlink() else path.read_bytes()
        return found

    def tables(self) -> dict:
        "The tables of results and their rows."
        return {
            path: rows_of(content)
            for path, content in self.files().items()
            if path.name in ('cells.csv', 'explanations.csv') and path not in self.own
        }

    def named(self) -> set:
        "All files that a row names."
        return {
            file
            for path, rows in self.tables().items()
            for row in rows
            for file in files_of(path.parent, row)
        }

    def real(self, path) -> Path:
        return Path(os.path.realpath(self.home / path))

    # what is to be held after every step

    def check(self):
        found, named = self.files(), set()
        for path, content in self.own.items():
            assert found.get(path) == content, f'{path}, a file of the user, was touched'
        for path, rows in self.tables().items():
            names = {row.get('stem', row.get('map')) for row in rows} - {''}
            assert len({name.lower() for name in names}) == len(names), f'{path}: {names}'
            for row in rows:
                self.check_row(path.parent, row, found)
                named.update(files_of(path.parent, row))
            # a row a file; a map for each of its methods and targets
            told = {(row['file'], row.get('method'), row.get('target'), row.get('map')) for row in rows}
            assert len({key[:3] for key in told}) == len(rows if path.name == 'cells.csv' else told), (
                f'{path}: {rows}'
            )
            named.add(path)
        hidden = {path for path in found if self.is_left(path)}
        lonely = found.keys() - named - self.own.keys() - hidden
        assert not lonely, f'files without their row: {lonely}'

    def is_left(self, path) -> bool:
        "Whether a run that was killed may have left this hidden file."
        return path.name.startswith('.') and any(table.parent in path.parents for table in self.dirty)

    def check_row(self, folder, row, found):
        "A row with a class has its files, and they say what it says."
        written = files_of(folder, row)
        assert all(spelled(path) == str(path) for path in written)
        if row['class'] == '':
            assert row['warning'].startswith(('not segmented', UNFINISHED, WRITING)), row
            return
        assert row['warning'] == '', row
        assert written, f'a class and no name: {row}'
        for path in written:
            if path in self.spoilt:
                continue
            assert path in found, f'{path} is missing'
            if path.name.endswith('_nucleus.png') and 'stem' in row:
                assert (np.asarray(Image.open(path)) > 0).sum() == int(row['nucleus_px']), path
            if path.suffix == '.npy' and row['player'] == 'nucleus':
                assert np.load(path).mean() == float(row['value']), path

    # what the user does

    def keep(self, path, content):
        if path in self.named():
            self.spoilt.add(path)
        else:
            self.own[path] = content

    def put(self, step):
        path = self.home / step.folder / step.name
        if path.is_symlink():
            path.unlink()
        path.write_bytes(PICTURES[step.code])
        self.keep(path, PICTURES[step.code])

    def remove(self, step):
        path = self.home / step.folder / step.name
        path.unlink(missing_ok=True)
        if self.own.pop(path, None) is None:
            self.spoilt.add(path)

    def link(self, step):
        path, to = self.home / step.folder / step.name, self.home / step.to
        if to.is_file() and not to.is_symlink() and to != path:
            path.unlink(missing_ok=True)
            path.symlink_to(to)
            self.keep(path, str(to))

    def stray(self, step):
        path = self.real(step.out) / step.name
        if path.parent.is_dir() and not path.is_symlink():
            path.write_bytes(b"the user's")
            self.keep(path, b"the user's")

    def tidy(self, step):
        tables = self.tables()
        results = sorted({*tables, *(path for path in self.named() if path.exists())})
        if not results:
            return
        path = results[step.which % len(results)]
        path.unlink()
        self.spoilt.add(path)
        if path in tables:  # what it named is now nobody's
            left = self.named()
            for row in tables[path]:
                for file in files_of(path.parent, row):
                    if file.exists() and file not in left:
                        self.own[file] = file.read_bytes()
            for file in path.parent.glob('.*'):
                self.own[file] = file.read_bytes()

    # runs

    def inputs(self, run) -> list:
        "The files that a run is to read."
        found, todo = [], [self.home / what for what in run.what]
        while todo:
            path = todo.pop(0)
            if not path.is_dir():
                found.append(path)
                continue
            for inside in sorted(path.iterdir()):
                if inside.name.startswith('.') or self.real(inside) == self.real(run.out):
                    continue
                if inside.is_dir():
                    todo += [inside] * run.recursive
                elif inside.suffix.lower() in SUFFIXES or says(inside) is not None or inside.is_symlink():
                    found.append(inside)
        return found

    def call(self, run, fault=None):
        "Do a run; what came of it in a word, and its error."
        where = self.home / run.cwd if run.cwd else None
        place = (lambda path: os.path.relpath(self.home / path, where)) if where else self.home.joinpath
        paths, out = [place(what) for what in run.what], place(run.out)
        NOW.fault = fault
        if where:
            os.chdir(where)
        try:
            if run.command == 'segment':
                segment.segment_files(paths, out, recursive=run.recursive)
            else:
                explain.explain_files(paths, out, run.method, run.target, recursive=run.recursive)
            return 'done', None
        except (ParameterError, KeyboardInterrupt, Killed) as error:
            return 'stopped' if fault and fault.struck else 'refused', error
        finally:
            NOW.fault = None
            if where:
                os.chdir(self.home)

    def mine(self, run) -> tuple:
        "The table of a run, and what its rows are about."
        table = self.real(run.out) / ('cells.csv' if run.command == 'segment' else 'explanations.csv')
        every = ('len', 'gradcam') if run.method == 'all' else (run.method,)
        ways = [(None, None)] if run.command == 'segment' else [(method, run.target) for method in every]
        # of a folder without a picture, too, a row may tell
        paths = [*self.inputs(run)]
        for what in run.what:
            paths += [self.home / what, *(path for path in (self.home / what).rglob('*') if path.is_dir())]
        real = {os.path.realpath(spelled(os.path.abspath(path))) for path in paths}
        return table, {(path, *way) for path in real for way in ways}

    def run(self, *both):
        mine, inputs = [self.mine(run) for run in both], [self.inputs(run) for run in both]
        before, rows = self.files(), self.tables()
        faults = [Fault(*run.fault) if run.fault else None for run in both]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', LeftOutWarning)
            ends = self.at_once(both, faults) if len(both) > 1 else [self.call(both[0], faults[0])]
        for run, fault in zip(both, faults):
            killed = fault and fault.struck and fault.kind == 'kill'
            if killed:
                self.dirty.add(self.mine(run)[0])
        self.check_others(both, mine, before, rows)
        if all(word == 'refused' for word, _ in ends):
            assert self.files() == before, 'a refusal that changed something'
        for run, own, files, (word, error), fault in zip(both, mine, inputs, ends, faults):
            if word == 'refused':
                self.check_refusal(run, own, files, error, rows)
            elif word == 'done':
                self.check_done(run, own, files, ends)

    def at_once(self, both, faults) -> list:
        ends, barrier = [None, None], threading.Barrier(2)

        def go(k):
            NOW.barrier = barrier
            ends[k] = self.call(both[k]._replace(cwd=None), faults[k])
            barrier.abort()

        threads = [threading.Thread(target=go, args=[k]) for k in (0, 1)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert None not in ends, 'a run ended by an error that is none of ours'
        return ends

    def check_others(self, both, mine, before, rows):
        "Rows and files that are no run's own are as they were."
        after, own = self.tables(), set()
        for path in {*rows, *after}:
            ours = set().union(*(keys for table, keys in mine if table == path))
            old, new = (
                [row for row in side.get(path, []) if about(row) not in ours] for side in (rows, after)
            )
            assert old == new, f'{path}: rows of others'
            own.update(
                file
                for side in (rows, after)
                for row in side.get(path, [])
                if about(row) in ours
                for file in files_of(path.parent, row)
            )
        tables, found = {table for table, _ in mine}, self.files()
        for path in before.keys() - own - tables:
            assert self.is_left(path) or found.get(path) == before[path], (
                f'{path}, which is no file of this run'
            )
        # what stood finished is still there, finished or marked
        for path, keys in mine:
            there = {about(row) for row in after.get(path, [])}
            lost = {about(row) for row in rows.get(path, []) if row['class']} & keys - there
            assert not lost, f'{path}: rows lost: {lost}'

    def check_refusal(self, run, own, inputs, error, rows):
        "A refusal has its reason."
        text = str(error)
        held = {
            key: row
            for table, there in self.tables().items()
            if table == own[0]
            for row in there
            for key in [about(row)]
        }
        if 'which holds the input' in text:
            out = self.real(run.out)
            assert out in {self.real(what) for what in run.what} or any(
                out in path.parents for path in map(self.real, inputs)
            ), text
        elif 'under the names of these' in text:
            assert held.keys() - own[1], text
        elif 'which no row of' in text:
            name = text.split('which holds ')[1].split(', which no row')[0]
            assert [path for path in self.files() if path.name == name], text
        elif 'which is no table of an earlier run' in text:
            assert own[0] in self.own, text
        else:
            raise AssertionError(text) from error

    def check_done(self, run, own, inputs, ends):
        "Every file that was named has its row, or is told to have failed."
        table, keys = own
        there = {about(row): row for row in self.tables()[table]}
        for path in inputs:
            size = says(path)
            for key in keys:
                if key[0] != os.path.realpath(spelled(os.path.abspath(path))):
                    continue
                row = there.get(key)
                if (
                    row
                    and row['warning'] in (UNFINISHED, WRITING)
                    and any(word == 'stopped' for word, _ in ends)
                ):
                    continue  # the other run was about to write it again
                if run.command == 'segment':
                    assert bool(row['class']) == (size is not None), row
                    if size is not None:
                        assert int(row['nucleus_px']) == size, row
                elif size is not None and (key[1] != 'len' or size != 7):
                    assert row['class'], row
                for file in files_of(table.parent, row) if row and row['class'] else []:
                    self.spoilt.discard(file)
        if all(word == 'done' for word, _ in ends):
            self.dirty.discard(table)

    def do(self, step):
        if isinstance(step, Run):
            self.run(step)
        elif isinstance(step, Both):
            self.run(*step)
        else:
            getattr(self, type(step).__name__.lower())(step)
        self.check()


def play(sequence):
    "A sequence of steps in folders of its own."
    memory = Path('/dev/shm')  # a disk in memory, where there is one
    home = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    back = os.getcwd()
    try:
        world = World(Path(os.path.realpath(home)))
        for step in sequence:
            world.do(step)
    finally:
        os.chdir(back)
        shutil.rmtree(home)


@settings(
    max_examples=int(os.environ.get('N', 100)),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(sequences())
def test_sequences_of_runs(sequence):
    play(sequence)
