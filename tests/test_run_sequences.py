"""Sequences of runs against a model of what must lie on the disk.

Hypothesis draws what a person does with a few folders: pictures are put there, changed, broken, linked and
taken away; `segment` and `explain` go over them from several places into several folders, one after the other
or two at once; they are interrupted, killed, or out of disk; results are deleted by hand. After every step
all files are compared with what must be there. In the place of the networks are fakes that answer at once.
"""

import contextlib
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
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

from blood_unet import cli, explain, files, segment
from blood_unet.cells import Cell, Picture
from blood_unet.core import LeftOutWarning, ParameterError
from blood_unet.data import CLASSES
from blood_unet.folders import UNFINISHED, WRITING
from blood_unet.images import SUFFIXES
from conftest import MODEL

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='names that other disks do not take, or do not tell apart; fork'
)
DRAWN = dict(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # sequences are short: one that fails is told as it is
    suppress_health_check=list(HealthCheck),
)

# --- in the place of the networks: the nucleus is what is dark, and its size is all that there is to say


def png(code: int) -> bytes:
    "A picture whose nucleus has `code` pixels."
    image = np.full((16, 16, 3), 250, np.uint8)
    image.reshape(-1, 3)[:code] = (90, 30, 120)
    return files.png_bytes(image)


PICTURES = {code: png(code) for code in range(1, 8)} | {0: b'this is no picture'}
REFUSED = 7  # px: of such a nucleus one method has nothing to say


def nucleus_of(image):
    return image[..., 0] < 100


def fake_segmentation(images, networks, device='auto', notes=None, **asked):
    "Stands for `segment_images`."
    meet()
    images = [images] if isinstance(images, np.ndarray) else images
    nuclei = [nucleus_of(image) for image in images]
    chance = np.eye(len(CLASSES))[[int(nucleus.sum()) % len(CLASSES) for nucleus in nuclei]]
    lines = [
        {'class': CLASSES[int(p.argmax())], 'nucleus_px': int(nucleus.sum()), 'warning': ''}
        | dict(zip(segment.CHANCES, p))
        | dict(image=i, cell=1, certain=True, left=0, top=0, right=16, bottom=16)
        | dict(um_per_pixel=0.25, scale='given', nucleus_fraction=float(nucleus.mean()), nc_ratio=1 / 3)
        | dict(nucleus_parts=1, anomaly_score=2 / 7, anomaly_reason='none, drawn')
        for i, (nucleus, p) in enumerate(zip(nuclei, chance))
    ]
    view, none = (0, 0, 16, 16), np.zeros((0, 16, 16, 3))
    found = [
        Cell('white cell', view, view, view, image, nucleus, nucleus, none, none, p[None], False, False)
        for image, nucleus, p in zip(images, nuclei, chance)
    ]
    pictures = [Picture([one], None, True) for one in found]
    table = pd.DataFrame(lines, columns=['image', *segment.COLUMNS[1:-1]])
    return segment.Segmentation(nuclei, nuclei, chance, table, pictures)


def fake_differential(named, certain, confusion, classes):
    "Stands for `differential`: the count alone."
    counts = pd.DataFrame({'class': classes, 'cells': [named.count(name) for name in classes]})
    return counts.reindex(columns=segment.SHARES)


def fake_explanation(subject, network, method, target, seed=0, samples=512):
    "Stands for `explain_cell`: a map that is everywhere the size of the nucleus."
    size = float(nucleus_of(subject.x).sum())
    if method == 'len' and size == REFUSED:
        raise ParameterError('a picture in which the recipe finds no cell', 'one white cell', 'cut it out')
    rows = dict(player=['nucleus', 'background'], value=[size, 0.1 + 0.2])
    table = pd.DataFrame(rows).assign(error=np.nan, low=np.nan, high=np.nan)
    return explain.Explanation(method, target, 'Dice', np.full((16, 16), size), None, table)


class Drawn(Figure):
    "A figure that is saved at once."

    def savefig(self, buffer, **kwargs):
        buffer.write(b'a figure')


def fake_networks(*arguments):
    meet()
    return [SimpleNamespace(config=dict(input_size=16))]


# --- what befalls a run

NOW = threading.local()  # of a thread: `fault`, and `barrier`, at which its run meets another


def meet():
    "Where two runs go at once: wait for the other, so that both have claimed before either writes."
    time.sleep(getattr(NOW, 'pause', 0))
    if getattr(NOW, 'barrier', None):
        with contextlib.suppress(threading.BrokenBarrierError):
            NOW.barrier.wait(0.02)


class Killed(BaseException):
    "The end of a run as by SIGKILL: after it no file can be touched."


class Fault:
    """What befalls a run at its `when`-th call of a kind.

    'picture': Ctrl-C while a picture's results are made; 'before' or 'after' a file takes its name; 'full': a
    disk that is full from then on; 'kill': the end of the process.
    """

    def __init__(self, kind, when):
        self.kind, self.left, self.struck = kind, when, False
        self.litters = kind == 'kill'  # whether temporary files may stay

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


def befalling(function, before=(), after=()):
    "A function at whose calls a fault may strike."

    @functools.wraps(function)
    def call(*args, **kwargs):
        fault = getattr(NOW, 'fault', None) or Fault('', 0)
        for kind in before:
            fault.at(kind)
        done = function(*args, **kwargs)
        for kind in after:
            fault.at(kind)
        return done

    return call


@pytest.fixture(scope='module', autouse=True)
def fakes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, 'load_networks', fake_networks)
        for module in (segment, explain):
            patch.setattr(module, 'segment_images', fake_segmentation)
        patch.setattr(segment, 'differential', fake_differential)
        patch.setattr(segment, 'batches', functools.partial(segment.batches, most=2))
        patch.setattr(segment, 'overlay', lambda image, *masks: image)
        patch.setattr(segment, 'result_pictures', befalling(segment.result_pictures, ['picture']))
        patch.setattr(explain, 'DEFAULT_METHODS', ('len', 'gradcam'))
        patch.setattr(explain, 'make_subject', lambda image, network: SimpleNamespace(x=image))
        patch.setattr(explain, 'named_class', lambda network, x: (0, 0.5))
        patch.setattr(explain, 'explain_cell', fake_explanation)
        patch.setattr(explain, 'draw_explanation', lambda image, found: Drawn())
        patch.setattr(explain, '_explanation_files', befalling(explain._explanation_files, ['picture']))
        patch.setattr(files.os, 'fsync', befalling(lambda handle: None, ['full', 'kill']))
        patch.setattr(files.os, 'replace', befalling(os.replace, ['before', 'kill'], ['after', 'kill']))
        patch.setattr(files.os, 'unlink', befalling(os.unlink, ['kill']))
        patch.setattr(files.os, 'open', befalling(os.open, ['kill']))
        yield


# --- what a person does

NAMES = [
    *('a.png', 'A.PNG', 'a.bmp', 'a', 'a_png.png', 'a_nucleus.png', 'a_class.png', 'a_gradcam.png'),
    *('NA.png', 'null.jpg', '1e5.png', '007.png', '-x.png', 'x.png', '00001_a.png', 'a.tar.png'),
    *('a,b.png', '"q".png', "it's.png", '=1+1.png', ' space .png', 'back\\slash.png', 'cells.csv.png'),
    *('new\nline.png', 're\rturn.png', '\u00e9.png', 'e\u0301.png', os.fsdecode(b'caf\xe9.png')),
    *('n' * 246 + '.png', 'n' * 246 + '.bmp'),
]
FOLDERS = ['A', 'B', 'A/sub', 'B/sub', 'B/SUB']
OUTS = ['o', 'o/sub', 'link', 'B/../o', 'A/out', 'A']
STRAYS = ['_nucleus.png', '_gradcam.npy', '_cell.png', '.txt']


class Put(NamedTuple):
    "A picture is put into a folder, or changed; 0 is none that can be read."

    folder: str
    name: str
    code: int


class Remove(NamedTuple):
    "A picture is taken away."

    folder: str
    name: str


class Link(NamedTuple):
    "A link to a picture."

    folder: str
    name: str
    to: str


class Stray(NamedTuple):
    "A file of the person's own where results go."

    out: str
    name: str


class Tidy(NamedTuple):
    "A result is deleted by hand: the one at the place `which` in the list of all."

    which: int


class Run(NamedTuple):
    "A command over `what`, in the folder `cwd` if any; `by`: through which folder the pictures are named."

    command: str
    what: list
    out: str
    recursive: bool
    method: str
    target: str
    by: str
    cwd: str
    fault: tuple


class Both(NamedTuple):
    "Two runs at once."

    one: Run
    other: Run


STEPS = 'put change change run run run run again again again both both remove link stray tidy'.split()
FAULTS = [None, None, None, 'picture', 'before', 'after', 'full', 'kill']


@st.composite
def sequences(draw, steps=STEPS, least=3, most=8):
    "Steps in a few folders, with a few names and one or two places for results."

    def one(choices):
        return draw(st.sampled_from(choices))

    def some(choices, least, most):
        return draw(st.lists(st.sampled_from(choices), min_size=least, max_size=most, unique=True))

    def fault():
        kind = one(FAULTS)
        return kind and (kind, one(range(1, 10)))

    def run():
        return Run(
            one(['segment', 'segment', 'explain']),
            [one([*folders, f'{one(folders)}/{one(names)}']) for _ in range(one([1, 1, 2]))],
            one(outs),
            one([False, False, True]),
            one(['gradcam', 'all']),
            one(['nucleus', 'class', 'immature granulocyte']),
            one(['', '', 'B/..', 'view']),
            one([None, None, *folders]),
            fault(),
        )

    def step(kind, done):
        runs, puts = ([one for one in done if isinstance(one, kind)] for kind in (Run, Put))
        if kind == 'run' or (kind == 'again' and not runs):
            return run()
        if kind == 'again':
            return one(runs)._replace(fault=fault())
        if kind == 'both':
            first = one([*runs, run()])
            return Both(first, one([first, run()])._replace(fault=fault()))
        if kind == 'put':
            return Put(one(folders), one(names), one(range(8)))
        if kind == 'change':
            return one(puts)._replace(code=one(range(8)))
        if kind == 'remove':
            return Remove(one(folders), one(names))
        if kind == 'link':
            return Link(one(folders), one(names), f'{one(folders)}/{one(names)}')
        if kind == 'stray':
            return Stray(one(outs), Path(one(names)).stem[:200] + one(STRAYS))
        return Tidy(one(range(30)))

    names, folders, outs = some(NAMES, 2, 4), some(FOLDERS, 1, 2), some(OUTS, 1, 2)
    done = []
    for kind in ('put', 'put', *draw(st.lists(st.sampled_from(steps), min_size=least, max_size=most))):
        done.append(step(kind, done))
    return done


# --- the model


def spelled(path) -> str:
    "A path as a table can hold it."
    return os.fspath(path).encode(errors='backslashreplace').decode().replace('\r', '\\r')


def real_name(path) -> str:
    "What the names of one file have in common, as a table can hold them."
    return spelled(os.path.realpath(spelled(os.path.abspath(path))))


@functools.lru_cache(256)
def size_in(content: bytes):
    "What the fakes find in a file: pixels of the nucleus, or None where there is no picture."
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert('RGB'))
    except (OSError, ValueError):
        return None
    return int(nucleus_of(pixels).sum()) if np.ptp(pixels.reshape(-1, 3), axis=0).any() else None


def size_of(path):
    return size_in(path.read_bytes()) if path.is_file() else None


@functools.lru_cache(256)
def rows_in(content: bytes) -> list:
    "The rows of a table."
    return list(csv.DictReader(io.StringIO(content.decode(), newline='')))


def about(row) -> tuple:
    return real_name(row['file']), row.get('method'), row.get('target')


def files_of(folder, row) -> list:
    "The files of a row."
    if 'stem' in row:
        return [folder / f'{row["stem"]}_{kind}.png' for kind in segment.KINDS] if row['stem'] else []
    return [folder / f'{row["map"]}{ending}' for ending in ('.npy', '.png')] if row['map'] else []


class World:
    """Folders of pictures and results, and what is known about them.

    `own`: the files that are the person's, which no run may touch, and what they hold; `spoilt`: results that
    the person deleted or put something in the place of; `dirty`: tables of runs that were killed; `litter`:
    temporary files of such runs whose table is gone. `found`: all files as they are now.
    """

    def __init__(self, home):
        self.home, self.own = home, {}
        self.spoilt, self.dirty, self.litter = set(), set(), set()
        for folder in (*FOLDERS, 'o'):
            (home / folder).mkdir(parents=True)
        (home / 'link').symlink_to('o')
        (home / 'view').symlink_to('.')
        self.look()

    def look(self):
        "Read every file; of a link, where it goes."
        self.found = {}
        for folder, _, names in os.walk(self.home):
            for path in (Path(folder, name) for name in names):
                self.found[path] = os.readlink(path) if path.is_symlink() else path.read_bytes()

    def tables(self) -> dict:
        "The tables of results and their rows."
        return {
            path: rows_in(content)
            for path, content in self.found.items()
            if path.name in ('cells.csv', 'explanations.csv') and path not in self.own
        }

    def named(self, but=None, begun=False) -> set:
        "All files that a row names, in any table but one; `begun`: a row that says that there may be some."
        return {
            file
            for path, rows in self.tables().items()
            for row in rows
            if path != but and not (begun and row['warning'] == UNFINISHED)
            for file in files_of(path.parent, row)
        }

    def real(self, path) -> Path:
        return Path(os.path.realpath(self.home / path))

    # what is to be held after every step

    def check(self):
        self.look()
        named = set()
        for path, content in self.own.items():
            assert self.found.get(path) == content, f'{path}, a file of the person, was touched'
        for path, rows in self.tables().items():
            owners = {}
            for row in rows:
                key = row['file'], row.get('method'), row.get('target')
                name = row.get('stem', row.get('map')).lower()
                assert owners.setdefault(name, key) == key or not name, (
                    f'{path}: two things are called {name}'
                )
                self.check_row(path.parent, row)
                named.update(files_of(path.parent, row))
            # a row a file; a map for each of its methods and targets
            told = {(row['file'], row.get('method'), row.get('target'), row.get('map')) for row in rows}
            count = len(rows if path.name == 'cells.csv' else told)
            assert len({key[:3] for key in told}) == count, f'{path}: {rows}'
            named.update((path, path.with_name(segment.DIFFERENTIAL)))
        lonely = self.found.keys() - named - self.own.keys()
        lonely = {p for p in lonely if not self.is_left(p) and p.name != segment.DIFFERENTIAL}
        assert not lonely, f'files without their row: {lonely}'

    def is_left(self, path) -> bool:
        "Whether a run that was killed may have left this temporary file."
        within = any(table.parent in path.parents for table in self.dirty)
        return path in self.litter or (path.name.startswith('.') and within)

    def check_row(self, folder, row):
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
            assert path in self.found, f'{path} is missing'
            if path.name.endswith('_nucleus.png') and 'stem' in row:
                mask = np.asarray(Image.open(io.BytesIO(self.found[path])))
                assert (mask > 0).sum() == int(row['nucleus_px']), f'{path} is not of its row'
            if path.suffix == '.npy' and row['player'] == 'nucleus':
                assert np.load(path).mean() == float(row['value']), f'{path} is not of its row'

    # what the person does

    def keep(self, path, content):
        if path in self.named(begun=True):
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
        followed = spelled(path) == str(path)  # a name that is no text leads nowhere from a table
        if followed and to.is_file() and not to.is_symlink() and to != path:
            path.unlink(missing_ok=True)
            path.symlink_to(to)
            self.keep(path, str(to))

    def stray(self, step):
        path = self.real(step.out) / step.name
        if path.parent.is_dir() and not path.is_symlink():
            path.write_bytes(b'of the person')
            self.keep(path, b'of the person')

    def tidy(self, step):
        tables = self.tables()
        results = sorted({*tables, *(path for path in self.named() if path in self.found)})
        if not results:
            return
        path = results[step.which % len(results)]
        path.unlink()
        self.spoilt.add(path)
        if path in tables:  # what it named is now the person's
            left = self.named(but=path)
            for file in {file for row in tables[path] for file in files_of(path.parent, row)} - left:
                if file in self.found:
                    self.own[file] = self.found[file]
            self.litter.update(file for file in self.found if self.is_left(file))

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
                elif inside.suffix.lower() in SUFFIXES or size_of(inside) is not None or inside.is_symlink():
                    found.append(inside)
        return found

    def mine(self, run) -> tuple:
        "The table of a run, and what its rows may be about."
        table = self.real(run.out) / ('cells.csv' if run.command == 'segment' else 'explanations.csv')
        every = ('len', 'gradcam') if run.method == 'all' else (run.method,)
        ways = [(None, None)] if run.command == 'segment' else [(method, run.target) for method in every]
        paths = self.inputs(run)
        for folder in (self.home / what for what in run.what):  # that a folder holds none is told, too
            paths += [folder, *(path for path in folder.rglob('*') if path.is_dir())]
        return table, {(real_name(path), *way) for path in paths for way in ways}

    def call(self, run, fault=None) -> tuple:
        "Do a run; what came of it in a word, and its error."
        where = self.home / run.cwd if run.cwd else None

        def place(path):
            return os.path.relpath(self.home / path, where) if where else self.home / path

        paths, out = [place(Path(run.by, what)) for what in run.what], place(run.out)
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

    def at_once(self, both, faults) -> list:
        "`call` of two runs, which stay where they are: threads share a working directory."
        ends, barrier = [None, None], threading.Barrier(2)

        def go(k):
            NOW.barrier = barrier
            try:
                ends[k] = self.call(both[k]._replace(cwd=None), faults[k])
            except BaseException as error:  # raised below, in the thread of the test
                ends[k] = error
            barrier.abort()

        threads = [threading.Thread(target=go, args=[k]) for k in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return ends

    def run(self, *runs):
        mine, inputs = [self.mine(run) for run in runs], [self.inputs(run) for run in runs]
        before, rows = self.found, self.tables()
        faults = [Fault(*run.fault) if run.fault else None for run in runs]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', LeftOutWarning)
            ends = [self.call(runs[0], faults[0])] if len(runs) == 1 else self.at_once(runs, faults)
        struck = {fault.kind for fault in faults if fault and fault.struck}
        for fault, (table, _) in zip(faults, mine):
            if fault and fault.struck and fault.litters:
                self.dirty.add(table)
        self.look()
        self.check_others(mine, before, rows)
        self.check_kept(mine, rows, struck)
        if all(word == 'refused' for word, _ in ends):
            assert self.found == before, 'a refusal that changed something'
        for run, own, read, (word, error) in zip(runs, mine, inputs, ends):
            if word == 'refused' and not struck:  # what another run claimed and gave back is gone
                self.check_refusal(run, own, read, str(error), len(runs))
            elif word == 'done':
                self.check_done(run, own, read, struck)

    def check_others(self, mine, before, rows):
        "Rows and files that are no run's own are as they were."
        after, own = self.tables(), set()
        for path in {*rows, *after}:
            ours = set().union(*(keys for table, keys in mine if table == path))
            sides = [side.get(path, []) for side in (rows, after)]
            old, new = ([row for row in side if about(row) not in ours] for side in sides)
            assert old == new, f'{path}: rows of others'
            touched = [row for side in sides for row in side if about(row) in ours]
            own.update(file for row in touched for file in files_of(path.parent, row))
        counts = {table.with_name(segment.DIFFERENTIAL) for table, _ in mine}
        for path in before.keys() - own - counts - {table for table, _ in mine}:
            as_it_was = self.found.get(path) == before[path]
            assert as_it_was or self.is_left(path), f'{path}, which is no file of this run'

    def check_kept(self, mine, rows, struck):
        "What was finished is still told, and still finished, unless its files were being written."
        for path, keys in mine:
            there = {about(row): row for row in self.tables().get(path, [])}
            for row in (row for row in rows.get(path, []) if row['class'] and about(row) in keys):
                assert about(row) in there, f'{path}: lost {row}'
                unfinished = there[about(row)]['warning'] in (UNFINISHED, WRITING)
                assert not unfinished or struck - {'picture'}, f'{path}: no longer finished: {row}'
            for row in there.values() if struck == {'picture'} else ():
                new = row['warning'] == UNFINISHED and row not in rows.get(path, [])
                assert not new, f'{path}: claimed and not given back: {row}'

    def check_refusal(self, run, own, inputs, text, runs):
        "A refusal has its reason."
        out = self.real(run.out)
        held = {row['file'] for row in self.tables().get(own[0], [])}
        if 'which holds the input' in text:
            inside = any(out in path.parents for path in map(self.real, inputs))
            assert inside or out in map(self.real, run.what), text
        elif 'under the names of these' in text:
            file = text.split('results of ')[1].split(' under the names')[0]
            assert file in held, text
            assert runs > 1 or real_name(file) not in {key[0] for key in own[1]}, text
        elif 'which no row of' in text:
            name = text.split('which holds ')[1].split(', which no row')[0]
            rows = [row for row in self.tables().get(own[0], []) if row['warning'] != UNFINISHED]
            known = {file for row in rows for file in files_of(own[0].parent, row)}
            assert [path for path in self.found if path.name == name and path not in known], text
        else:
            assert 'that another run began just now' in text and runs > 1, text

    def check_done(self, run, own, inputs, struck):
        "Every file that was named has its row, or is told to have failed."
        table, keys = own
        there = {about(row): row for row in self.tables()[table]}
        for path in inputs:
            size = size_of(path)
            for key in [key for key in keys if key[0] == real_name(path)]:
                row = there.get(key)
                if struck and row and row['warning'] in (UNFINISHED, WRITING):
                    continue  # another run was about to write it again
                if run.command == 'segment':
                    assert bool(row['class']) == (size is not None), row
                    assert size is None or int(row['nucleus_px']) == size, row
                if size is not None and (key[1], size) != ('len', REFUSED):
                    assert row['class'], row
                    self.spoilt.difference_update(files_of(table.parent, row))
        if not struck:
            self.dirty.discard(table)

    def check_readers(self):
        "Another reader finds the same in the tables."
        for path, rows in self.tables().items():
            read = pd.read_csv(path, dtype=str, keep_default_na=False)
            assert read.to_dict('records') == rows, f'{path}: two readers, two tables'

    def do(self, step):
        if isinstance(step, Run):
            self.run(step)
        elif isinstance(step, Both):
            self.run(*step)
        else:
            getattr(self, type(step).__name__.lower())(step)
        self.check()


@contextlib.contextmanager
def empty_folder():
    "A folder on a disk in memory, where there is one."
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    home, back = Path(os.path.realpath(tempfile.mkdtemp(dir=memory))), os.getcwd()
    try:
        yield home
    finally:
        os.chdir(back)
        shutil.rmtree(home)


def play(sequence, world=World):
    "A sequence of steps in folders of its own."
    with empty_folder() as home:
        here = world(home)
        for step in sequence:
            here.do(step)
        here.check_readers()


@settings(max_examples=1000, **DRAWN)
@given(sequences())
def test_sequences_of_runs(sequence):
    play(sequence)


# --- the command, in processes of its own


def as_process(words, folder, where):
    "`blood-unet` in a process that was forked with the fakes in it; what it says lies in `folder`."
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared with forked processes: a killed one may hold it
    for stream in ('stdout', 'stderr'):
        setattr(sys, stream, open(folder / stream, 'w', encoding='utf-8'))
    os.chdir(where)
    sys.argv, NOW.pause = ['blood-unet', *words], 0.005
    cli.main()


class Processes(World):
    "The same with each run in a process, which a signal ends: SIGKILL, SIGTERM or that of Ctrl-C."

    SIGNALS = dict(kill=signal.SIGKILL, full=signal.SIGKILL, picture=signal.SIGINT)

    def call(self, run, fault=None) -> tuple:
        return self.at_once([run], [fault])[0]

    def at_once(self, runs, faults) -> list:
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(tempfile.mkdtemp(dir=folder)) for _ in runs]
            started = [self.start(*one) for one in zip(runs, said)]
            begin = time.monotonic()
            with_fault = [(fault.left, fault, one) for fault, one in zip(faults, started) if fault]
            for when, fault, process in sorted(with_fault, key=lambda one: one[0]):
                time.sleep(max(0, begin + 0.005 * when - time.monotonic()))
                fault.struck = (
                    process.is_alive()
                )  # asking also collects one that has ended: its number is free
                if fault.struck:
                    os.kill(process.pid, self.SIGNALS.get(fault.kind, signal.SIGTERM))
                fault.kind, fault.litters = 'after', True  # also a signal may come between any two steps
            return [self.end(*one) for one in zip(started, said, faults)]

    def start(self, run, said):
        where = self.home / (run.cwd or '')

        def place(path):
            return os.path.relpath(self.home / path, where) if run.cwd else str(self.home / path)

        words = [run.command, '--out', place(run.out), *['--recursive'] * run.recursive]
        words += ['--method', run.method, '--target', run.target] * (run.command == 'explain')
        words += ['--', *(place(Path(run.by, what)) for what in run.what)]
        process = multiprocessing.get_context('fork').Process(target=as_process, args=(words, said, where))
        process.start()
        return process

    def end(self, process, said, fault) -> tuple:
        "What came of a run in a word, and what it said."
        process.join(60)
        hung = process.is_alive()
        process.kill()
        out, text = (
            (said / name).read_text() if (said / name).exists() else '' for name in ('stdout', 'stderr')
        )
        assert not hung and ('Traceback' not in text or 'KeyboardInterrupt' in text), text
        if '.csv are in' in out:
            return 'done', None
        if 'blood-unet: ' in text:
            return 'refused', text
        assert fault and fault.struck, text
        return 'stopped', text


@settings(max_examples=18, **DRAWN)
@given(sequences(['put', 'run', 'both', 'both'], 2, 4))
def test_sequences_of_processes(sequence):
    play(sequence, Processes)


def command(*words):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    words = [Path(sys.executable).with_name('blood-unet'), *map(str, words), '--model', MODEL]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_twice_at_once(tmp_path):
    world = World(tmp_path)
    for code in (3, 4, 5):
        world.put(Put('A', f'{code}.png', code))
        world.put(Put('B', f'{code + 3}.png', code))
    runs = [
        command('segment', tmp_path / 'A', '--out', tmp_path / 'o'),
        command('explain', tmp_path / 'B', '--out', tmp_path / 'o', '--method', 'ig', '--target', 'class'),
        command('segment', tmp_path / 'B', '--out', tmp_path / 'link'),
    ]
    for run in runs:
        assert run.wait(200) == 0, run.stderr.read()
    world.look()
    tables = world.tables()
    cells, maps = (tables[tmp_path / 'o' / name] for name in ('cells.csv', 'explanations.csv'))
    assert sorted(row['stem'] for row in cells) == ['3', '4', '5', '6', '7', '8']
    assert {row['map'] for row in maps} == {f'{code}_class_ig' for code in (6, 7, 8)}
    assert all(row['class'] for row in (*cells, *maps))
    written = {path for path in world.found if path.parent == tmp_path / 'o'}
    counts = {tmp_path / 'o' / segment.DIFFERENTIAL}
    assert written == world.named() | set(tables) | counts, 'no file without its row, and no lock'


@pytest.mark.parametrize('how', ['SIGTERM', 'SIGKILL'])
def test_the_command_is_stopped_as_soon_as_it_has_claimed(tmp_path, how):
    world = World(tmp_path)
    for code in range(40):
        world.put(Put('A', f'{code}.png', 3))
    run = command('segment', tmp_path / 'A', '--out', tmp_path / 'o')
    while not (table := tmp_path / 'o' / 'cells.csv').exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.001)
    run.send_signal(getattr(signal, how))
    assert run.wait(60) != 0 and 'Traceback' not in run.stderr.read()
    rows = rows_in(table.read_bytes())
    assert len(rows) == (0 if how == 'SIGTERM' else 40), 'what is not begun is given back, by all but SIGKILL'
    assert {row['warning'] for row in rows} <= {UNFINISHED}
    world.dirty.add(table)
    world.run(Run('segment', ['A'], 'o', False, '', '', '', None, None))
    world.check()
    assert all(row['class'] for row in world.tables()[table])
