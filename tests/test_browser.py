"""The explorer in a real browser.

JupyterLab on a free loopback port, Chromium without a window, every control clicked, the page read.

Left out of a plain run: `make test-browser`. Chromium is the system's; playwright only drives it.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from blood_unet.data import phantom
from blood_unet.phantom import draw_field

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
MISSING = (
    f'no Chromium: none of {", ".join(NAMES)} is on the PATH; install it (Debian: apt-get install chromium)'
    ' and run make test-browser again'
)
NOTEBOOK = '12d_explorer.ipynb'
KINDS = (0, 1, 4, 6, 6)  # the classes of the white cells that the field shows
SECONDS, RUN = 120, 500  # for one step, and for all cells of the notebook, at most


def make_book(folder, only_the_widget: bool = False):
    """A copy of the notebook in a new folder, told to draw its own cells.

    Its cells hold the code of the explorer; `only_the_widget`: those up to the widget.
    """
    folder.mkdir()
    book = json.loads((ROOT / 'nbs' / NOTEBOOK).read_text())
    cells = [cell for cell in book['cells'] if cell['cell_type'] == 'code']
    parameters = next(cell for cell in cells if 'parameters' in cell['metadata'].get('tags', []))
    parameters['source'] = (
        ''.join(parameters['source'])
        + "\ndataset, size, device, samples, n_cells, save_to = 'phantom', 28, 'cpu', 64, 8, 'saved'\n"
    )
    for cell in cells:
        cell.update(outputs=[], execution_count=None)
    if only_the_widget:
        assert 'library.Explorer(' in ''.join(cells[1]['source']), 'the notebook opens with its widget'
        book['cells'] = cells[:2]
    (folder / NOTEBOOK).write_text(json.dumps(book))
    return folder


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """The address of JupyterLab with its token, and the folder that it serves.

    Nothing is read from or written to the user's Jupyter folders.
    """
    root, own = tmp_path_factory.mktemp('book'), tmp_path_factory.mktemp('jupyter')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = os.urandom(16).hex()
    env = {
        **os.environ,
        'BLOOD_UNET_OFFLINE': '1',
        'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
        'JUPYTER_TOKEN': token,
        'PYTHONPATH': os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
    }
    env |= {f'JUPYTER_{name}_DIR': str(own / name.lower()) for name in ('CONFIG', 'DATA', 'RUNTIME')} | dict(
        IPYTHONDIR=str(own / 'ipython'),
        JUPYTERLAB_SETTINGS_DIR=str(own / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(own / 'workspaces'),
    )
    env.pop('BLOOD_UNET_DATA', None)
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--ServerApp.ip=127.0.0.1',
        f'--ServerApp.port={port}',
        '--ServerApp.port_retries=0',
        f'--ServerApp.root_dir={root}',
        '--ServerApp.allow_root=True',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
    ]
    news = own / 'settings' / '@jupyterlab' / 'apputils-extension' / 'notification.jupyterlab-settings'
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')
    with open(own / 'log', 'w') as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root)
    address, until = f'http://127.0.0.1:{port}', time.monotonic() + SECONDS
    try:
        while True:
            assert server.poll() is None and time.monotonic() < until, (
                'JupyterLab did not start:\n' + (own / 'log').read_text()[-3000:]
            )
            try:
                urllib.request.urlopen(f'{address}/api/status?token={token}', timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield address, token, root
    finally:
        server.terminate()  # shuts its kernels down
        server.wait(20)


@pytest.fixture(scope='module')
def chromium():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, MISSING
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=['--no-sandbox'])
        yield browser
        browser.close()


def open_explorer(lab, chromium, folder):
    "The page, after all cells of the notebook have run, and the box of the explorer in it."
    address, token, _ = lab
    page = chromium.new_page(viewport=dict(width=1280, height=900), device_scale_factor=1)
    page.set_default_timeout(1000 * SECONDS)
    page.goto(f'{address}/doc/tree/{folder.name}/{NOTEBOOK}?reset&token={token}')
    page.locator('.jp-Notebook').wait_for()
    page.locator('.jp-NotebookPanel-toolbar').get_by_text(
        'Python 3'
    ).wait_for()  # the notebook has its kernel; the list of running kernels says so too, out of sight
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_text('Run All Cells', exact=True).click()
    box, stopped = (
        page.locator('.blood-unet').first,
        page.locator('.jp-OutputArea-output', has_text='Traceback'),
    )
    box.or_(stopped).first.wait_for(state='attached', timeout=1000 * RUN)
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    idle.wait_for(state='attached', timeout=1000 * RUN)  # the cells below the widget have run, too
    assert stopped.count() == 0, 'a cell of the notebook failed:\n' + stopped.first.inner_text()[-2000:]
    box.scroll_into_view_if_needed()
    return page, box


class Page:
    "The explorer's box in a page: choose and click as a person does, then wait until it says how that went."

    def __init__(self, page, box):
        self.page, self.box, self.seen = page, box, []

    def control(self, label):
        return self.box.get_by_label(label, exact=True)

    def choose(self, label, text):
        self.control(label).select_option(label=text)

    def tick(self, part):
        self.box.locator('.widget-checkbox', has_text=part).locator('input').click()

    def readout(self):
        return self.box.locator('.blood-unet-readout').inner_text()

    def give(self, path):
        with self.page.expect_file_chooser() as chooser:
            self.box.get_by_role('button', name='Open a picture').click()
        chooser.value.set_files(path)

    def field(self):
        "Are a field's overview and the buttons of its cells to be seen?"
        parts = [self.box.locator(f'.blood-unet-{name}') for name in ('field', 'cells')]
        assert [part.count() for part in parts] == [1, 1]
        return [part.is_visible() for part in parts]

    def title(self):
        return self.box.locator('h3').inner_text()

    def settled(self, words='Ready', picture=True):
        "Wait for a step to end; it must have ended well, with `words`, and with a picture not seen before."
        now = (
            "b => { const s = b.querySelector('.blood-unet-status'); return [s ? s.innerText : '', s ?"
            " s.className : '', (b.querySelector('.blood-unet-picture') || {}).src || ''] }"
        )
        until = time.monotonic() + SECONDS
        while True:
            text, kind, source = self.box.evaluate(now)
            if (
                'bad' in kind
                or 'good' in kind
                and words in text
                and not (picture and source in self.seen)
                or time.monotonic() > until
            ):
                break
            self.page.wait_for_timeout(50)
        assert 'good' in kind and words in text, f'the explorer says: {text}'
        shown = self.box.locator('img.blood-unet-picture')
        assert shown.count() == 1 and shown.is_visible()
        assert shown.evaluate('im => im.decode().then(() => im.naturalWidth)') > 1000
        assert not picture or source not in self.seen, f'{words}: the picture has not changed'
        self.seen.append(source)
        return text


def click_through(lab, chromium, folder):
    "What a person does with the explorer, and what must then be on the page and on the disk."
    page, box = open_explorer(lab, chromium, folder)
    e = Page(page, box)
    try:
        e.settled()
        assert e.field() == [False, False], 'one cell alone needs no overview'
        assert box.evaluate('b => b.scrollWidth <= b.clientWidth + 1'), (
            'something sticks out of the box at 1280 px'
        )

        e.choose(
            'class',
            next(
                t
                for t in e.control('class').locator('option').all_inner_texts()
                if t.startswith('eosinophil')
            ),
        )
        e.settled()
        assert 'eosinophil' in e.title() and re.search(
            r'whole picture\s+\w+( \w+)? [01]\.\d{3}\s+(yes|no)\s+\d+ px', e.readout()
        ), e.readout()
        first = e.title()
        e.control('cell').fill('2')
        e.control('cell').press('Enter')
        e.settled()
        assert e.title() != first
        whole = e.readout()
        e.tick('cytoplasm')
        e.settled()
        assert (
            'without cytoplasm' in e.readout()
            and e.readout().startswith(whole)
            and len(e.readout().splitlines()) == 3
        ), e.readout()
        e.choose('target', 'class it gives')
        e.settled()
        e.choose('heat map', 'integrated gradients')
        e.settled()
        e.choose('LEN over', 'parts')
        e.settled()
        box.get_by_role('button', name='Save picture and numbers').click()
        assert 'eosinophil' in e.title() and '.npy' in e.settled('Saved in', picture=False)
        saved = {path.suffix: path for path in (folder / 'saved').iterdir()}
        assert sorted(saved) == ['.csv', '.json', '.npy', '.png'] and Image.open(saved['.png']).size == (
            1440,
            930,
        )
        numbers = json.loads(saved['.json'].read_text())
        assert (numbers['target'], numbers['hidden'], numbers['name']) == (
            'class',
            ['cytoplasm'],
            e.title().split(' · ')[0],
        )
        assert list(numbers['segments']) == ['whole picture', 'without cytoplasm']
        for found in numbers['segments'].values():
            assert f"{found['class']} {max(found[p] for p in found if p.startswith('p_')):.3f}" in e.readout()

        own = folder / 'my cell.png'
        Image.fromarray(phantom(1, size=90, seed=8).images[0]).save(own)
        e.give(own)
        e.settled('Opened my cell.png')
        assert e.title() == 'my cell' and e.field() == [False, False]
        bad = folder / 'half.png'
        bad.write_bytes(own.read_bytes()[:300])
        e.give(bad)
        box.locator('.blood-unet-status.bad').wait_for()
        assert (
            'got half.png, unreadable' in box.locator('.blood-unet-status').inner_text()
            and e.title() == 'my cell'
        )
    finally:
        page.screenshot(path=folder / 'explorer.png')  # to look at where a test fails
        page.close()


def test_click_through_the_explorer(lab, chromium):
    click_through(lab, chromium, make_book(lab[2] / 'whole'))


def go_through_a_field(page, e, folder):
    """A field of one's own: its overview and a button a cell are shown, and a click goes to another cell.

    What is saved names the cell that was chosen.
    """
    e.settled()
    Image.fromarray(draw_field(KINDS)[0]).save(folder / 'field.png')
    e.give(folder / 'field.png')
    e.settled('Opened field.png')
    assert e.field() == [True, True] and e.title() == 'field cell 1'
    overview = e.box.locator('img.blood-unet-field')
    assert overview.evaluate('im => im.decode().then(() => im.naturalWidth)') >= 900
    assert e.box.evaluate('b => b.scrollWidth <= b.clientWidth + 1'), 'something sticks out at 1280 px'
    buttons = e.box.locator('.blood-unet-cells button')
    named = buttons.all_inner_texts()
    assert [words.split()[0] for words in named] == [str(k + 1) for k in range(len(KINDS))]
    before = e.readout()
    buttons.nth(1).click()
    e.settled()
    assert e.title() == 'field cell 2' and e.readout() != before
    assert buttons.nth(1).get_attribute('class').split().count('mod-active') == 1
    page.screenshot(path=folder / 'field_explorer.png')
    kind, sure = re.search(r'whole picture\s+([a-z ]+) [01]\.\d{3}\s+(yes|no)', e.readout()).groups()
    assert named[1] == f'2 {kind}{"" if sure == "yes" else "?"}'
    e.box.get_by_role('button', name='Save picture and numbers').click()
    e.settled('Saved in', picture=False)
    saved = next((folder / 'saved').glob('field-cell-2*.json'))
    numbers = json.loads(saved.read_text())
    found = numbers['segments']['whole picture']
    assert (numbers['name'], found['cell'], found['class']) == ('field cell 2', 2, kind)
    e.control('cell').fill('2')  # back to the data set: one cell alone again
    e.control('cell').press('Enter')
    e.settled()
    assert e.field() == [False, False] and not e.title().startswith('field')


def test_a_field_in_the_explorer(lab, chromium):
    "The widget alone: the cells of the notebook below it are left out."
    folder = make_book(lab[2] / 'field', only_the_widget=True)
    page, box = open_explorer(lab, chromium, folder)
    try:
        go_through_a_field(page, Page(page, box), folder)
    finally:
        page.screenshot(path=folder / 'explorer.png')
        page.close()


BREAK = """
from blood_unet import view


def broken(subject, hidden):
    raise RuntimeError('broken on purpose')


view.hide_parts = broken
"""


def test_a_broken_callback_does_not_pass(lab, chromium):
    """The same clicks on a copy whose step of hiding raises: they must fail, and for that reason.

    The cells below the widget are left out.
    """
    folder = make_book(lab[2] / 'broken', only_the_widget=True)
    book = json.loads((folder / NOTEBOOK).read_text())
    kept = book['cells']
    breaking = dict(kept[0], source=BREAK, metadata={}, id='breaking')
    book['cells'] = [kept[0], breaking, kept[1]]
    (folder / NOTEBOOK).write_text(json.dumps(book))
    words = 'the explorer says: Hiding failed: a fault of this program, .*broken on purpose'
    with pytest.raises(AssertionError, match=words):
        click_through(lab, chromium, folder)
