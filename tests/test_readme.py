"""The README's table holds what was measured, and its Python lines run as pasted."""
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent


def test_table_is_what_was_measured():
    bench = runpy.run_path(str(TOP/'bench'/'readme.py'))
    text = (TOP/'README.md').read_text()
    shown = text.split(bench['START'])[1].split(bench['END'])[0]
    assert shown == bench['table'](), 'README.md is out of step with bench/results: run python bench/readme.py'


def test_snippet_runs_as_pasted(tmp_path):
    code, = re.findall(r'```python\n(.*?)```', (TOP/'README.md').read_text(), re.S)
    assert len(code.splitlines()) == 5
    environment = {k: v for k, v in os.environ.items() if k != 'BLOOD_UNET_DATA'} | dict(MPLBACKEND='agg', PYTHONPATH=str(TOP))
    code = code.replace("'auto'", "'phantom'")                                   # the test asks no server
    found = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count(',') == 7                                          # eight class names
    assert (tmp_path/'cells.png').stat().st_size > 10_000
