"""A training, an explanation or a protocol that is killed (SIGKILL) at any moment goes on to the bits of one
that was not.
"""

import json
import multiprocessing
import random
import time

import numpy as np
import pytest
from safetensors import safe_open

import killable

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['killable'])  # imports torch once, not once a process


def run(folder, work=killable.train):
    "Work to the end in a process of its own: `(digest of the result, seconds of work)`."
    result, started = context.SimpleQueue(), context.Event()
    process = context.Process(target=work, args=(folder, result, started))
    process.start()
    assert started.wait(300), 'the process did not start'
    begin = time.perf_counter()
    process.join(300)
    assert process.exitcode == 0
    return result.get(), time.perf_counter() - begin


def kill_after(folder, seconds, work=killable.train):
    "Start the work and kill it after `seconds` of it; true if it was still alive."
    result, started = context.SimpleQueue(), context.Event()
    process = context.Process(target=work, args=(folder, result, started))
    process.start()
    assert started.wait(300), 'the process did not start'
    time.sleep(seconds)
    alive = process.is_alive()
    process.kill()
    process.join(60)
    return alive


@pytest.fixture(scope='module')
def calm(tmp_path_factory):
    return run(tmp_path_factory.mktemp('calm'))


@pytest.mark.parametrize('moment', range(10))
def test_killed_and_resumed(moment, calm, tmp_path):
    digest, seconds = calm
    share = (moment + random.random()) / 10  # one moment in every tenth of the run
    killed_alive = kill_after(tmp_path, share * seconds)
    epochs = 0
    for path in tmp_path.rglob('*.safetensors'):
        if path.name.startswith('.'):
            continue  # an unfinished temporary file, which the next run sweeps away
        with safe_open(path, 'pt') as f:
            assert all(f.get_tensor(k) is not None for k in f.keys())
            if path.name == 'last.safetensors':
                epochs = len(json.loads(f.metadata()['history']))
    print(f'killed at {share:.0%} of the run, after {epochs} whole epochs, alive: {killed_alive}')
    assert run(tmp_path)[0] == digest
    assert not [p for p in tmp_path.rglob('.*')], 'an unfinished file was left behind'


@pytest.fixture(scope='module')
def calm_explanation(tmp_path_factory):
    return run(tmp_path_factory.mktemp('calm_explanation'), killable.explain)


@pytest.mark.parametrize('moment', range(5))
def test_killed_and_resumed_explanation(moment, calm_explanation, tmp_path):
    digest, seconds = calm_explanation
    share = (moment + random.random()) / 5
    killed_alive = kill_after(tmp_path, share * seconds, killable.explain)
    chunks = sorted(tmp_path.glob('[0-9]*.npy'))
    assert all(np.load(p, allow_pickle=False).shape[1] == 32 for p in chunks)
    print(f'killed at {share:.0%} of the run, after {len(chunks)} whole chunks, alive: {killed_alive}')
    assert run(tmp_path, killable.explain)[0] == digest
    assert not [p for p in tmp_path.rglob('.*')], 'an unfinished file was left behind'


def test_a_protocol_killed_five_times(tmp_path):
    digest, seconds = run(tmp_path / 'calm', killable.protocol)
    home, alive = tmp_path / 'killed', []
    for _ in range(5):  # each time it goes on from the networks that are there
        alive.append(kill_after(home, random.uniform(0.2, 0.5) * seconds, killable.protocol))
        kept = [path.parent.name for path in home.rglob('scores.npz')]
        print(f'alive when killed: {alive[-1]}, whole networks: {len(kept)}')
        assert alive[-1] or (home / 'haematological.json').exists()
    assert alive[0] and alive[1]
    assert run(home, killable.protocol)[0] == digest
    assert not [p for p in home.rglob('.*')], 'an unfinished file was left behind'
