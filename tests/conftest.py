"""Shared by the tests: the markers for real data and for a browser, folders that cannot be written, and the
bundled phantom network.
"""

import os
import subprocess

import pytest

MODEL = 'phantom-28'  # the tiny bundled network: what it says is not tested here


def pytest_configure(config):
    config.addinivalue_line('markers', 'bloodmnist: needs real BloodMNIST under $BLOOD_UNET_DATA or data/')
    config.addinivalue_line('markers', 'browser: needs Chromium, and playwright to drive it')
    config.addinivalue_line('markers', 'every_notebook: runs the whole book, on real data, in plain kernels')


def pytest_collection_modifyitems(config, items):
    for name, reason in (
        ('bloodmnist', 'real data: run make test-data'),
        ('browser', 'a browser: run make test-browser'),
        ('every_notebook', 'a quarter of an hour and real data: run pytest -m every_notebook tests'),
    ):
        if name in (config.option.markexpr or ''):
            continue
        for item in items:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def mount(folder, options):
    "Mount a small file system on `folder`; False where this is not allowed."
    return (
        os.geteuid() == 0
        and subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], capture_output=True
        ).returncode
        == 0
    )


@pytest.fixture
def read_only(tmp_path):
    "A folder that really cannot be written, for root neither."
    folder = tmp_path / 'read-only'
    folder.mkdir()
    mounted = mount(folder, 'ro')
    if not mounted and os.geteuid() == 0:
        pytest.skip('root, and no mount allowed: nothing is read-only here')
    folder.chmod(0o555) if not mounted else None
    yield folder
    subprocess.run(['umount', folder], check=True) if mounted else folder.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path):
    "A folder on a disk of 256 KiB."
    folder = tmp_path / 'small-disk'
    folder.mkdir()
    if not mount(folder, 'size=256k'):
        pytest.skip('needs a mount')
    yield folder
    subprocess.run(['umount', folder], check=True)
