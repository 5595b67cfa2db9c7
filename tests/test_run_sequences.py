"""Sequences of runs into the same folders, against a model of what must lie on disk.

Pictures come, change, break and go; a person puts files of his own among the results and deletes some; runs
of `segment` and `explain` are refused, stopped half way, and go side by side. After every step: no file is
lost or changed that is not the run's own, no row with a class lacks its files, no file lacks its row. A
stand-in answers in the place of the networks: what it says of a picture can be read off the picture.
"""

import csv
import os
import shutil
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from blood_unet import explain, files, folders, segment
from blood_unet.core import ImageError, ParameterError
from blood_unet.data import CLASSES
from blood_unet.explain import Explanation, explain_files
from blood_unet.files import file_bytes
from blood_unet.folders import UNFINISHED
from blood_unet.images import read_image
from blood_unet.segment import Segmentation, segment_files

SEQUENCES = 1000
SIDE = 16  # px, the smallest picture that is read


class Stopped(BaseException):
    "What a person's Ctrl-C is to the library: no Exception."


# --- a stand-in for the networks: a picture of colour k has k nucleus pixels and is of class k modulo 8


def number_of(image) -> int:
    return int(image[0, 0, 0])


def answer(images, model=None, device=None, notes=None) -> Segmentation:
    "What `segment_images` gives, without a network."
    images = [images] if isinstance(images, np.ndarray) else images
    numbers = [number_of(image) for image in images]
    masks = [np.arange(image[..., 0].size).reshape(image.shape[:2]) < k for image, k in zip(images, numbers)]
    chances = np.eye(8)[[k % 8 for k in numbers]]
    rows = [
        {'class': CLASSES[k % 8], 'nucleus_px': k, 'warning': ''}
        | dict(zip(segment.COLUMNS[2:10], chance))
        | dict(nucleus_fraction=0.1, nc_ratio=0.1, nucleus_parts=1)
        for k, chance in zip(numbers, chances)
    ]
    if hasattr(PACE, 'together'):  # two runs: both have claimed before either writes
        PACE.together.wait(30)
        del PACE.together
    return Segmentation(masks, masks, chances, pd.DataFrame(rows, columns=segment.COLUMNS[1:-1]))


def explained(image, network, methods, target, seed, samples):
    "What `_explain_image` gives, without a network; a method may have nothing to say."
    k = number_of(image)
    parts = pd.DataFrame(dict(player=['core', 'rim'], value=[float(k), -float(k)])).reindex(
        columns=['player', 'value', 'error', 'low', 'high']
    )
    found = [Explanation(one, target, '', np.full((4, 4), float(k)), None, parts) for one in methods]
    return found, {}, (k % 8, 0.5)


def map_files(image, found, place):
    kinds = ('.npy', '.png')
    return {
        place.with_name(place.name + kind): file_bytes(lambda buffer: np.save(buffer, found.map))
        for kind in kinds
    }


PACE = threading.local()
REAL_WRITE = folders.write_all


def writing(contents):
    "`write_all`, which a run may be stopped in: before the pictures of the k-th image, or by a full disk."
    if getattr(PACE, 'left', None) is not None and not any(path.suffix == '.csv' for path in contents):
        PACE.left -= 1
        if PACE.left < 0:
            stop = Stopped() if PACE.stop == 'Ctrl-C' else ParameterError('a full disk', 'room', 'free it')
            raise stop
    REAL_WRITE(contents)


@contextmanager
def stand_in():
    "The library with the stand-in in the place of its networks, and without waiting for the disk."
    network = SimpleNamespace(config={})
    with ExitStack() as stack:
        for module, name, other in (
            (segment, 'load_networks', lambda *a: [network]),
            (segment, 'segment_images', answer),
            (explain, 'load_networks', lambda *a: [network]),
            (explain, 'nearest_network', lambda *a: network),
            (explain, 'segment_images', answer),
            (explain, '_explain_image', explained),
            (explain, '_explanation_files', map_files),
            (folders, 'write_all', writing),
            (files.os, 'fsync', lambda handle: None),
        ):
            stack.enter_context(patch.object(module, name, other))
        yield


# --- steps of a sequence

PICTURES = ['a.png', 'A.png', 'a.bmp', 'a.jpg', 'a_png.png', 'a_nucleus.png', 'a_class.png', 'cells.csv.png']
PICTURES += [
    'NA.png',
    'null.png',
    '007.png',
    '1e5.png',
    '-x.png',
    'a,b.png',
    'a"b.png',
    "it's.png",
    ' a .png',
]
PICTURES += ['a\nb.png', '\u00e9.png', 'e\u0301.png', '=1+1.png', 'x' * 240 + '.png', 'a.tar.png', 'noending']
PICTURES += [os.fsdecode(b'caf\xe9.png')] if sys.platform == 'linux' else []
PLACES = ['slide1', 'slide2', 'slide1/sub', 'Slide1']
OUTS = ['o', 'slide1/out', 'o/deeper']
OWN = ['a_nucleus.png', 'a_cell.png', 'notes.txt', 'a_parts.npy', 'NA_overlay.png', 'a_bmp_nucleus.png']

place, name, out = st.sampled_from(PLACES), st.sampled_from(PICTURES), st.sampled_from(OUTS)
likely = st.one_of(st.sampled_from(PICTURES[:6]), name)  # names that meet, more often than others
number = st.integers(1, 200)
run = st.fixed_dictionaries(
    dict(
        command=st.sampled_from(['segment', 'segment', 'explain']),
        named=st.lists(st.one_of(place, st.tuples(place, likely)), min_size=1, max_size=3),
        out=out,
        at=st.sampled_from(['.', 'slide1', 'slide2']),  # the working directory
        spelled=st.sampled_from(['relative', 'absolute', 'roundabout', 'by a link']),
        recursive=st.booleans(),
        target=st.sampled_from(['nucleus', 'class', 'immature granulocyte']),
        method=st.sampled_from(['parts', 'probability', 'all']),
        left=st.one_of(st.none(), st.none(), st.integers(0, 3)),
        stop=st.sampled_from(['Ctrl-C', 'full disk']),
    )
)
step = st.one_of(
    st.tuples(st.just('picture'), place, likely, number),
    st.tuples(st.just('picture'), place, likely, number),
    st.tuples(st.just('breaks'), place, likely),
    st.tuples(st.just('goes'), place, likely),
    st.tuples(st.just('own'), out, st.sampled_from(OWN), number),
    st.tuples(st.just('loses'), out, st.integers(0, 50)),
    st.tuples(st.just('run'), run),
    st.tuples(st.just('run'), run),
    st.tuples(st.just('run'), run),
    st.tuples(st.just('two'), run, run),
)


def save_picture(path, k):
    "A picture of the number k, whatever its name says."
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((SIDE, SIDE, 3), 250, np.uint8)
    image[:8, :8] = k, 255 - k, 40
    Image.fromarray(image).save(path, format='PNG')


# --- what lies on disk

TABLES = dict(segment='cells.csv', explain='explanations.csv')


def read_rows(path) -> list:
    "The rows of a table, read in two ways that must agree."
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as f:
        plain = list(csv.DictReader(f))
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    assert plain == table.to_dict('records')
    return plain


def rows_of(folder) -> list:
    "All rows of a folder of results: (about, finished, name, number, paths)."
    found = []
    for row in read_rows(folder / 'cells.csv'):
        paths = [folder / f'{row["stem"]}_{kind}.png' for kind in segment.KINDS] if row['stem'] else []
        number = int(row['nucleus_px']) if row['nucleus_px'] else None
        about = ('segment', row['file'])
        found.append((about, row['warning'] != UNFINISHED, row['stem'], number, paths, row))
    for row in read_rows(folder / 'explanations.csv'):
        paths = [folder / f'{row["map"]}{kind}' for kind in ('.npy', '.png')]
        number = abs(int(float(row['value']))) if row['value'] else None
        about = ('explain', row['file'], row['method'], row['target'])
        found.append((about, row['warning'] != UNFINISHED, row['map'], number, paths, row))
    return found


def number_in(path) -> int:
    "The number of the picture that a file of results is about."
    if path.suffix == '.npy' or not path.name.endswith(tuple(f'_{kind}.png' for kind in segment.KINDS)):
        return int(np.load(path).mean())
    return int((np.array(Image.open(path)) > 0).sum())


class Disk:
    "The folders, and the model: the person's own files, what he deleted, and what each row must find."

    def __init__(self, root):
        self.root, self.own, self.deleted = root, {}, set()
        for folder in (*PLACES, 'o'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / 'link').symlink_to(root / 'slide1')

    def outs(self):
        return [self.root / folder for folder in OUTS]

    def snapshot(self) -> dict:
        "All files with their bytes."
        return {path: path.read_bytes() for path in self.root.rglob('*') if path.is_file()}

    def save(self, path, write):
        "A file of the person: a picture, or one of his own among the results."
        if path in {p for folder in self.outs() for row in rows_of(folder) for p in row[4]}:
            return  # he writes over a result: then it is what it is
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        self.own[path] = path.read_bytes()

    def check(self, before=None, runs=()):
        "The invariants; `before`: the snapshot before `runs`, whose inputs may have changed rows."
        now = self.snapshot()
        for path, content in self.own.items():
            assert now[path] == content, f'{path} is the person\'s own'
        named = set()
        for folder in self.outs():
            rows = rows_of(folder)
            assert len({(*about, row.get('player')) for about, *_, row in rows}) == len(rows), (
                'one row a thing'
            )
            for about, finished, stem, k, paths, row in rows:
                named |= set(paths)
                assert finished, f'{about}: no run is under way'
                for path in paths:
                    assert path in now or path in self.deleted, f'{about} without {path.name}'
                    if path in now and path not in self.own and k is not None and 'overlay' not in path.name:
                        assert number_in(path) == k, f'{path.name} is not of the picture of its row'
            named |= {folder / table for table in TABLES.values()}
        strangers = set(now) - named - set(self.own)
        assert not strangers, f'files without their row: {strangers}'
        if before is not None:
            self.check_others(before, now, runs)

    def check_others(self, before, now, runs):
        "What is not about the inputs of the runs is as it was."
        changed = {path for path in set(before) | set(now) if before.get(path) != now.get(path)}
        for folder in self.outs():
            for about, _, _, _, paths, row in rows_of(folder):
                touched = any(
                    about[0] == r['command'] and r['real'] & {os.path.realpath(about[1])} for r in runs
                )
                assert touched or not changed & set(paths), f'{about} changed, and no run asked for it'
        for path in changed & set(before) - set(now):
            assert any(r['command'] and path.parent.is_relative_to(r['out_path']) for r in runs)


# --- the steps


def named_paths(disk, asked) -> list:
    "The paths of a run as a person would spell them in his working directory."
    spelled = []
    for what in asked['named']:
        path = disk.root / what if isinstance(what, str) else disk.root / what[0] / what[1]
        if asked['spelled'] == 'by a link' and path.is_relative_to(disk.root / 'slide1'):
            path = disk.root / 'link' / path.relative_to(disk.root / 'slide1')
        if asked['spelled'] == 'roundabout':
            path = disk.root / 'o' / '..' / path.relative_to(disk.root)
        spelled.append(path)
    if asked['spelled'] == 'relative':
        spelled = [Path(os.path.relpath(path, disk.root / asked['at'])) for path in spelled]
    return spelled


def start(disk, asked, paths, out):
    "One run; what it raised, or None."
    PACE.left, PACE.stop = asked['left'], asked['stop']
    try:
        if asked['command'] == 'segment':
            return segment_files(paths, out, recursive=asked['recursive'])
        return explain_files(paths, out, asked['method'], asked['target'], recursive=asked['recursive'])
    except (ParameterError, Stopped) as error:
        return error
    finally:
        PACE.left = None


def real(path) -> str:
    "A file by its real name, as a table spells it."
    return os.path.realpath(path).encode(errors='backslashreplace').decode()


def inputs_of(disk, asked) -> set:
    "The real files that a run would read, as far as its folders and names say."
    found = set()
    for what in asked['named']:
        path = disk.root / what if isinstance(what, str) else disk.root / what[0] / what[1]
        below = path.rglob('*') if asked['recursive'] else path.glob('*')
        found |= {real(p) for p in [path, *(below if path.is_dir() else [])]}
    return found


def prepare(disk, asked) -> dict:
    return asked | dict(out_path=disk.root / asked['out'], real=inputs_of(disk, asked))


def readable(path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True


def check_done(disk, asked, result):
    "A run that ended well has a row for everything it was asked, with the number of the picture."
    rows = {
        (row[0][1], *row[0][2:]): row for row in rows_of(asked['out_path']) if row[0][0] == asked['command']
    }
    there = {os.path.realpath(file[0]): row for file, row in rows.items()}
    for what in asked['named']:
        path = disk.root / what if isinstance(what, str) else disk.root / what[0] / what[1]
        if path.is_dir() or not path.exists():
            continue
        row = there.get(real(path))
        if readable(path):
            assert row and row[3] == number_of(read_image(path)), f'{path} was asked for'
        else:
            assert path.name in {Path(file).name for file in result.failed}, f'{path} is said to have failed'
            if asked['command'] == 'segment':
                assert row and row[5]['warning'].startswith('not segmented') and not row[4]


def do_run(disk, asked):
    asked, before, home = prepare(disk, asked), disk.snapshot(), os.getcwd()
    os.chdir(disk.root / asked['at'])
    try:
        out = (
            asked['out_path'] if asked['spelled'] != 'relative' else Path(os.path.relpath(asked['out_path']))
        )
        result = start(disk, asked, named_paths(disk, asked), out)
    finally:
        os.chdir(home)
    disk.deleted -= set(disk.snapshot())
    disk.check(before, [asked])
    if isinstance(result, ParameterError) and 'full disk' not in str(result):
        assert disk.snapshot() == before, f'refused, and yet something changed: {result}'
    elif not isinstance(result, BaseException):
        check_done(disk, asked, result)


def do_two(disk, *asked):
    "Two runs side by side, which go on from their claims together."
    asked = [prepare(disk, one | dict(spelled='absolute')) for one in asked]
    before, together, results = disk.snapshot(), threading.Barrier(2), [None, None]

    def work(i):
        PACE.together = together
        try:
            results[i] = start(disk, asked[i], named_paths(disk, asked[i]), asked[i]['out_path'])
        except BaseException as error:  # told below, in the thread of the test
            results[i] = error
        finally:
            together.abort()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(
            result, (ParameterError, Stopped, threading.BrokenBarrierError)
        ):
            raise result
    disk.deleted -= set(disk.snapshot())
    disk.check(before, asked)
    for one, result in zip(asked, results):
        if not isinstance(result, BaseException):
            check_done(disk, one, result)


def play(steps, root):
    "A sequence of steps in the empty folder `root`."
    disk = Disk(root)
    for kind, *what in steps:
        if kind == 'picture':
            disk.save(root / what[0] / what[1], lambda path: save_picture(path, what[2]))
        elif kind == 'breaks' and (path := root / what[0] / what[1]).exists():
            disk.save(path, lambda path: path.write_text('this is no picture any more'))
        elif kind == 'goes' and (path := root / what[0] / what[1]) in disk.own:
            path.unlink(missing_ok=True)
            del disk.own[path]
        elif kind == 'own' and not (path := root / what[0] / what[1]).exists():
            disk.save(path, lambda path: path.write_bytes(bytes([what[2]]) * 9))
        elif kind == 'loses':
            results = sorted(
                {p for row in rows_of(root / what[0]) for p in row[4] if p.exists()} - set(disk.own)
            )
            if results:
                gone = results[what[1] % len(results)]
                gone.unlink()
                disk.deleted.add(gone)
        elif kind == 'run':
            do_run(disk, *what)
        elif kind == 'two':
            do_two(disk, *what)
        disk.check()


@contextmanager
def empty_folder():
    root = Path(os.path.realpath(tempfile.mkdtemp()))
    try:
        yield root
    finally:
        shutil.rmtree(root)


@pytest.mark.filterwarnings('ignore::blood_unet.core.LeftOutWarning')
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # sequences are short: one that fails is told as it is
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(step, min_size=3, max_size=9))
def test_sequences_of_runs(steps):
    with empty_folder() as root, stand_in():
        play(steps, root)
