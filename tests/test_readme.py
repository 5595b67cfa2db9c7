"""The README's table holds what was measured, and its Python lines run as pasted."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize('name, make', [('results', 'table'), ('explanations', 'explanations')])
def test_tables_are_what_was_measured(name, make):
    bench = runpy.run_path(str(TOP / 'bench' / 'readme.py'))
    start, end = bench['MARKS'][name]
    shown = (TOP / 'README.md').read_text().split(start)[1].split(end)[0]
    assert shown == bench[make](), 'README.md is out of step with bench/results: run python bench/readme.py'


def test_snippet_runs_as_pasted(tmp_path):
    (code,) = re.findall(r'```python\n(.*?)```', (TOP / 'README.md').read_text(), re.S)
    assert len(code.splitlines()) == 6
    environment = {k: v for k, v in os.environ.items() if k != 'BLOOD_UNET_DATA'} | dict(
        MPLBACKEND='agg', PYTHONPATH=str(TOP)
    )
    code = code.replace("'auto'", "'phantom'")  # the test asks no server
    found = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count(',') == 7  # eight class names
    assert (tmp_path / 'cells.png').stat().st_size > 10_000
