"Training in several processes through lightning-fabric: both end with the same weights."

import json
import subprocess
import sys
from pathlib import Path


def test_two_processes_agree(tmp_path):
    script = Path(__file__).parent / 'two_processes.py'
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(p.read_text()) for p in tmp_path.glob('*.json')]
    assert len(found) == 2, done.stdout + done.stderr[-2000:]
    assert found[0]['digest'] == found[1]['digest']
    assert all(f['loss'][-1] < f['loss'][0] for f in found)
