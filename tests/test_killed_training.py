"A training that is killed (SIGKILL) at any moment goes on to the bits of one that was not."
import json
import multiprocessing
import random
import time

import pytest
from safetensors import safe_open

import killable

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['killable'])      # imports torch once, not once a process


def run(folder):
    "Train to the end in a process of its own: `(digest of the final weights, seconds of training)`."
    result, started = context.SimpleQueue(), context.Event()
    process = context.Process(target=killable.train, args=(folder, result, started))
    process.start()
    assert started.wait(300), 'the training process did not start'
    begin = time.perf_counter()
    process.join(300)
    assert process.exitcode == 0
    return result.get(), time.perf_counter() - begin


def kill_after(folder, seconds):
    "Start a training and kill it after `seconds` of training; true if it was still alive."
    result, started = context.SimpleQueue(), context.Event()
    process = context.Process(target=killable.train, args=(folder, result, started))
    process.start()
    assert started.wait(300), 'the training process did not start'
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
    share = (moment + random.random())/10          # one moment in every tenth of the run
    killed_alive = kill_after(tmp_path, share*seconds)
    epochs = 0
    for path in tmp_path.rglob('*.safetensors'):
        if path.name.startswith('.'): continue     # an unfinished temporary file, which the next run sweeps away
        with safe_open(path, 'pt') as f:
            assert all(f.get_tensor(k) is not None for k in f.keys())
            if path.name == 'last.safetensors': epochs = len(json.loads(f.metadata()['history']))
    print(f'killed at {share:.0%} of the run, after {epochs} whole epochs, alive: {killed_alive}')
    assert run(tmp_path)[0] == digest
    assert not [p for p in tmp_path.rglob('.*')], 'an unfinished file was left behind'
