"""The GPU path, measured: what `bench/gpu.sh run` calls, one part at a time.

    python bench/gpu.py PART --device cuda --out bench/results/gpu.json [--small]

Parts: `machine` (what is there), `prepare` (images and their recipe masks), `train_28`, `train_64` and
`train_paper_128` (one epoch beside a few steps on the CPU), `explain` (exact Shapley values of cell parts,
local surrogates and predictions), `figures_on_device` and `figures_on_cpu` (the book, twice; what differs).
Each writes its numbers into the JSON file, atomically, as it goes; one that fails leaves the reason there.
Bookkeeping for gpu.sh, which needs nothing but Python: `begin`, `ended`, `finish`, `repack`.

Only the 28 px file is there: images of 64 and 128 px are enlarged from it. They are good for speed and
memory, and say nothing about quality.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from importlib.util import find_spec
from pathlib import Path

BOOKKEEPING = ('begin', 'ended', 'finish', 'repack')
MISSING = None
if sys.argv[1:2] and sys.argv[1] not in BOOKKEEPING:
    try:
        import numpy as np
        import torch
        import torch.nn.functional as F
        import yaml

        from blood_unet.coalitions import make_game, recipe_parts, superpixel_game
        from blood_unet.core import versions
        from blood_unet.data import load_bloodmnist
        from blood_unet.images import to_tensor
        from blood_unet.local_surrogate import local_surrogate
        from blood_unet.model import BloodUNet, count_parameters
        from blood_unet.paper import book_folder, notebooks, regenerate
        from blood_unet.predict import predict
        from blood_unet.preprocessing import add_masks
        from blood_unet.shapley import exact_shapley_values
        from blood_unet.targets import HardDice, frozen_mask
        from blood_unet.training import TrainingConfig, fit
    except ImportError as error:
        MISSING = error

ENLARGED = 'enlarged from 28 px: speed only'
WORK = Path('build/gpu')
# what a usual torch image holds and the wheels do not bring: names of imports
EXPECTED = (
    'torch torchvision numpy scipy pandas skimage sklearn matplotlib seaborn PIL tifffile numba safetensors '
    'torchmetrics typer tqdm yaml requests pygments packaging psutil attr dateutil cloudpickle'
).split()
NOTES = dict(
    data=f'the 28 px file of BloodMNIST; 64 and 128 px are {ENLARGED}',
    ratio='what the device does in a second, over what the CPU of the same machine does in a second',
    memory='peak MiB of the card, data included; on the CPU, what the process took on top of what it had',
    precision='training on cuda is mixed with bfloat16, explanations are float32 with what torch allows',
)
NETWORKS = {28: 'blood-unet-28', 64: 'blood-unet-64'}
TRAIN = dict(
    train_28=dict(size=28, widths=(24, 48, 96, 192), batch=64, images=None, cpu_steps=48),
    train_64=dict(size=64, widths=(24, 48, 96, 192), batch=64, images=None, cpu_steps=16),
    train_paper_128=dict(size=128, widths=(64, 128, 256, 512), batch=64, images=None, cpu_steps=2),
)
EXPLAIN = dict(images=256, cpu_images=32, samples=256)
SMALL_TRAIN = dict(
    train_28=dict(batch=32, images=256, cpu_steps=4),
    train_64=dict(batch=16, images=64, cpu_steps=2),
    train_paper_128=dict(batch=4, images=8, cpu_steps=1),
)
SMALL_EXPLAIN = dict(images=8, cpu_images=4, samples=64)
SMALL_IMAGES = 300
SMALL_BOOK = ('model', 'heatmaps')
LINE = re.compile(r'^(\d\d\w+)\s+([\d.]+) s\s+(\d+) figures')


# the results file


def write(results: dict, out: Path):
    "Write the results as JSON, whole or not at all."
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f'.{out.name}.part')
    part.write_text(json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + '\n')
    os.replace(part, out)


def note(out: Path, name: str, **values):
    "Add values to the record of a part."
    results = json.loads(out.read_text())
    results['parts'].setdefault(name, {}).update(values)
    write(results, out)


def last_words(log: Path, size: int = 400, start: str = '') -> str:
    "The last line of a log that says something, of those that begin with `start`; empty if none does."
    lines = log.read_text(errors='replace').splitlines() if log and log.is_file() else []
    said = [line.strip()[:size] for line in lines if line.strip() and line.startswith(start)]
    return said[-1] if said else ''


def begin(args):
    "Start a results file and an empty working folder; what an earlier run left is replaced."
    shutil.rmtree(WORK, ignore_errors=True)
    extent = 'reduced, to try the program: the numbers mean nothing' if args.small else 'full'
    write(dict(parts={}, device=args.device, extent=extent, notes=NOTES), args.out)


def ended(args):
    "Record a part that ended by itself or was ended: gpu.sh tells its exit status and the time that it had."
    record = json.loads(args.out.read_text())['parts'].get(args.name, {})
    if args.code == 0 and record.get('status') == 'ok':
        return
    if record.get('status') == 'failed':
        return
    reason = f'exit status {args.code}: {last_words(args.log) or "no word in the log"}'
    if args.limit == 0:
        reason = 'not started: no time was left'
    elif args.code in (124, 137):
        reason = f'stopped after {args.limit} s, or for want of memory'
    note(args.out, args.name, status='failed', reason=reason, **book_times(args.name, args.log))


def finish(args):
    "Say what came out; exit status 1 where a part failed."
    results = json.loads(args.out.read_text())
    failed = [name for name, part in results['parts'].items() if part.get('status') != 'ok']
    results.update(seconds=args.seconds, failed=sorted(failed))
    write(results, args.out)
    for name, part in sorted(results['parts'].items()):
        why = f': {part.get("reason")}' if name in failed else ''
        print(f'{name:20} {part.get("status", "not ended")}{why}')
    print(f'{args.seconds} s in all; {args.out}')
    sys.exit(1 if failed or not results['parts'] else 0)


def repack(args):
    "Copy an npz file to another compression: bzip2 to travel, none to be read fast; the same arrays."
    kind = dict(bzip2=zipfile.ZIP_BZIP2, none=zipfile.ZIP_STORED)[args.compression]
    args.target.parent.mkdir(parents=True, exist_ok=True)
    part = args.target.with_name(f'.{args.target.name}.part')
    with zipfile.ZipFile(args.source) as old, zipfile.ZipFile(part, 'w', kind) as new:
        for item in old.infolist():
            new.writestr(zipfile.ZipInfo(item.filename), old.read(item), kind)
    os.replace(part, args.target)


# the machine


def processor() -> str:
    "Name of the processor."
    try:
        found = re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(args):
    "What the machine is and lacks; fails where the device or the library is not there."
    lacks = [name for name in EXPECTED if find_spec(name) is None]
    note(args.out, 'machine', processor=processor(), cores=len(os.sched_getaffinity(0)), lacks=lacks)
    note(args.out, 'machine', python=platform.python_version(), small=args.small)
    if MISSING:
        raise RuntimeError(f'{MISSING}; not here: {", ".join(lacks) or "nothing that was expected"}')
    names = 'torch numpy scipy pandas scikit-image scikit-learn matplotlib lightning-fabric captum shap numba'
    note(args.out, 'machine', versions=versions(names.split()), torch_threads=torch.get_num_threads())
    if args.device == 'cuda':
        if not torch.cuda.is_available():
            raise RuntimeError('torch sees no CUDA device')
        card = torch.cuda.get_device_properties(0)
        x = torch.ones(8, 3, 32, 32, device='cuda')
        total = float(F.conv2d(x, torch.ones(4, 3, 3, 3, device='cuda')).sum())
        assert total == 8 * 4 * 30 * 30 * 27, f'a convolution on the device gives {total}'
        note(
            args.out,
            'machine',
            card=card.name,
            card_mib=round(card.total_memory / 2**20),
            capability=f'{card.major}.{card.minor}',
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        )


def prepare(args):
    "Training images at 28 px with their recipe masks, made once for all parts."
    cells = load_bloodmnist('train', 28, download=False)
    source, digest = cells.source, cells.digest
    if args.small:
        cells = cells.subset(range(SMALL_IMAGES))
    start = time.perf_counter()
    cells = add_masks(cells)
    seconds = time.perf_counter() - start
    WORK.mkdir(parents=True, exist_ok=True)
    arrays = dict(images=cells.images, labels=cells.labels, nucleus=cells.nucleus, cell=cells.cell)
    np.savez(WORK / 'cells.npz', **arrays)
    speed = dict(mask_seconds=round(seconds, 2), masks_per_second=round(len(cells) / seconds, 1))
    note(args.out, 'prepare', source=source, digest=digest, images=len(cells), **speed)


def load_prepared(size: int, limit: int = None):
    "What `prepare` left, as cells of `size` px, the first `limit` of them."
    cells = load_bloodmnist('train', 28, download=False)
    with np.load(WORK / 'cells.npz') as arrays:
        count = min(limit or len(arrays['images']), len(arrays['images']))
        masks = {name: enlarge(arrays[name][:count], size) for name in ('nucleus', 'cell')}
    cells = cells.subset(range(count))
    cells.images = enlarge(cells.images, size)
    cells.nucleus, cells.cell = masks['nucleus'], masks['cell']
    return cells


def enlarge(arrays, size: int):
    "Images uint8 (N, H, W, 3), bilinearly, or bool masks (N, H, W), by the nearest pixel, at `size` px."
    if arrays.shape[1] == size:
        return arrays
    result = np.empty((len(arrays), size, size, *arrays.shape[3:]), arrays.dtype)
    for start in range(0, len(arrays), 512):
        part = torch.from_numpy(arrays[start : start + 512])
        if part.ndim == 3:
            large = F.interpolate(part[:, None].float(), (size, size), mode='nearest')[:, 0] > 0.5
        else:
            channels_first = part.permute(0, 3, 1, 2).float()
            large = F.interpolate(channels_first, (size, size), mode='bilinear', align_corners=False)
            large = large.round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
        result[start : start + 512] = large.numpy()
    return result


def kind_of_images(size: int) -> str:
    "What the images of a size are, in words."
    return 'BloodMNIST, 28 px' if size == 28 else ENLARGED


# memory


def resident(key: str) -> float:
    "Resident memory of this process, MiB: VmRSS now, VmHWM at its peak; None where it cannot be read."
    try:
        found = re.search(rf'{key}:\s+(\d+) kB', Path('/proc/self/status').read_text())
    except OSError:
        found = None
    return int(found[1]) / 2**10 if found else None


def start_memory(device: str):
    "Forget earlier peaks of memory; the resident MiB now, None where peaks cannot be forgotten."
    if device == 'cuda':
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return None
    return resident('VmRSS')


def peak_memory(device: str, before) -> dict:
    "Peak MiB since `start_memory`: of the card, or what this process took on top of what it had."
    if device == 'cuda':
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return dict(allocated_mib=round(allocated / 2**20), reserved_mib=round(reserved / 2**20))
    peak = resident('VmHWM')
    if before is None or peak is None:
        return dict(process_peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))
    return dict(added_mib=round(peak - before))


# parts


def one_epoch(cells, settings: dict, device: str) -> dict:
    "One epoch of the library's own training from the same start; images a second, memory, loss."
    torch.manual_seed(0)
    network = BloodUNet(widths=settings['widths'], input_size=settings['size'])
    config = TrainingConfig(epochs=1, batch_size=settings['batch'])
    before = start_memory(device)
    history = fit(network, cells, settings=config, device=device, progress=False)
    memory = peak_memory(device, before)
    seconds = float(history.seconds.iloc[0])
    return dict(
        images=len(cells),
        seconds=round(seconds, 3),
        images_per_second=round(len(cells) / seconds, 2),
        loss=round(float(history.loss.iloc[0]), 5),
        parameters=count_parameters(network),
        **memory,
    )


def train(args, name: str):
    "One epoch on the device; a few steps of it there and on the CPU, for the ratio and to compare the loss."
    settings = TRAIN[name] | (SMALL_TRAIN[name] if args.small else {})
    cells = load_prepared(settings['size'], settings['images'])
    few = cells.subset(range(min(settings['cpu_steps'] * settings['batch'], len(cells))))
    facts = dict(settings, data=kind_of_images(settings['size']), threads=torch.get_num_threads())
    facts.pop('images')
    note(args.out, name, **facts)
    steps_there = one_epoch(few, settings, args.device)  # also warms up
    print('a few steps on the device:', steps_there, flush=True)
    epoch = one_epoch(cells, settings, args.device)
    note(args.out, name, epoch=epoch)
    print('an epoch on the device:', epoch, flush=True)
    steps_here = one_epoch(few, settings, 'cpu')
    print('a few steps on the CPU:', steps_here, flush=True)
    ratio = epoch['images_per_second'] / steps_here['images_per_second']
    losses = dict(device=steps_there['loss'], cpu=steps_here['loss'])
    note(args.out, name, cpu=steps_here, ratio=round(ratio, 2), loss_of_same_steps=losses)


def timed(function):
    "What a function gives and the seconds that it took."
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def nucleus_cells(network, size: int, count: int, device: str):
    "Test images uint8 (N, size, size, 3), `count` or fewer, in which the network sees a nucleus; its masks."
    cells = load_bloodmnist('test', 28, download=False)
    images = enlarge(cells.images[: 2 * count], size)
    mask = frozen_mask(network.to(device), to_tensor(images))
    filled = mask.flatten(1).float().mean(1)
    keep = torch.nonzero((filled > 0) & (filled < 1)).flatten()[:count]
    return images[keep.numpy()], mask[keep]


def explanations(images, mask, settings: dict) -> dict:
    "Kinds of explanation by name: how to prepare the first `count` images, and how to explain them."
    x = to_tensor(images)

    def exact(network, game, count):
        return exact_shapley_values(game, network, HardDice(mask[:count]))

    def surrogate(network, game, count):
        return local_surrogate(game, network, HardDice(mask[:count]), settings['samples']).coefficients

    def parts_game(count):
        return make_game(x[:count], recipe_parts(images[:count]))

    def pixels_game(count):
        return superpixel_game(x[:count])

    return dict(exact_shapley_of_parts=(parts_game, exact), local_surrogate=(pixels_game, surrogate))


def explain_at(size: int, settings: dict, device: str) -> dict:
    "Explanations a second at one size, on the device and on the CPU, and how far they differ."
    network = BloodUNet.from_pretrained(NETWORKS[size])
    images, mask = nucleus_cells(network, size, settings['images'], device)
    few = min(settings['cpu_images'], len(images))
    found = dict(data=kind_of_images(size), network=NETWORKS[size], images=len(images), cpu_images=few)
    for name, (prepare_game, explain_game) in explanations(images, mask, settings).items():
        game, game_seconds = timed(lambda: prepare_game(len(images)))
        few_game = prepare_game(few)
        network.to(device, memory_format=torch.channels_last)
        there = explain_game(network, few_game, few)  # also warms up
        before = start_memory(device)
        _, seconds = timed(lambda: explain_game(network, game, len(images)))
        memory = peak_memory(device, before)
        network.to('cpu', memory_format=torch.channels_last)
        here, cpu_seconds = timed(lambda: explain_game(network, few_game, few))
        speed, cpu_speed = len(images) / seconds, few / cpu_seconds
        found[name] = dict(
            per_second=round(speed, 2),
            cpu_per_second=round(cpu_speed, 2),
            ratio=round(speed / cpu_speed, 2),
            games_prepared_per_second=round(len(images) / game_seconds, 2),
            largest_difference=float(np.abs(there - here).max()),
            mean_difference=float(np.abs(there - here).mean()),
            same_first_part=float((there.argmax(1) == here.argmax(1)).mean()),
            **memory,
        )
        print(size, name, found[name], flush=True)
    return found


def predict_at(size: int, settings: dict, device: str) -> dict:
    "Predictions a second at one size on the device and on the CPU, and how far they differ."
    network = BloodUNet.from_pretrained(NETWORKS[size])
    count = 16 * settings['images']
    images = enlarge(load_bloodmnist('test', 28, download=False).images[:count], size)
    few = images[: 16 * settings['cpu_images']]
    there = predict(network, few, device=device)  # also warms up
    before = start_memory(device)
    _, seconds = timed(lambda: predict(network, images, device=device))
    memory = peak_memory(device, before)
    here, cpu_seconds = timed(lambda: predict(network, few, device='cpu'))
    apart = np.abs(there.nucleus_probability - here.nucleus_probability).max()
    speed, cpu_speed = len(images) / seconds, len(few) / cpu_seconds
    classes = there.class_probability.argmax(1) == here.class_probability.argmax(1)
    return dict(
        images=len(images),
        cpu_images=len(few),
        per_second=round(speed, 1),
        cpu_per_second=round(cpu_speed, 1),
        ratio=round(speed / cpu_speed, 2),
        largest_difference_of_nucleus_probability=float(apart),
        same_class=float(classes.mean()),
        **memory,
    )


def explain(args):
    "Explanations and predictions a second, with their CPU ratios."
    settings = EXPLAIN | (SMALL_EXPLAIN if args.small else {})
    note(args.out, 'explain', samples=settings['samples'], threads=torch.get_num_threads())
    for size in NETWORKS:
        found = explain_at(size, settings, args.device)
        found['predict'] = predict_at(size, settings, args.device)
        note(args.out, 'explain', **{f'at_{size}_px': found})


# the book


def small_book(folder: Path) -> Path:
    "A book of a few notebooks with their published parameters, in `folder`."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = [path for path in notebooks() if path.stem.partition('_')[2] in SMALL_BOOK]
    for path in kept:
        shutil.copy(path, folder)
    names = [path.stem for path in kept]
    plan = yaml.safe_load((book_folder() / 'paper.yaml').read_text(encoding='utf-8'))
    for key, value in plan.items():
        if isinstance(value, dict):
            plan[key] = {name: given for name, given in value.items() if name in names}
        else:
            plan[key] = [name for name in value if name in names]
    (folder / 'paper.yaml').write_text(yaml.safe_dump(plan), encoding='utf-8')
    return folder


def book_times(name: str, log: Path) -> dict:
    "Seconds by notebook that the log of a run of the book tells; nothing for another part."
    if not name.startswith('figures') or not log or not log.is_file():
        return {}
    found = [LINE.match(line) for line in log.read_text(errors='replace').splitlines()]
    return dict(notebooks={match[1]: float(match[2]) for match in found if match})


def leaves(value, path: str = ''):
    "Every number in nested lists and dictionaries, with its place."
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f'{path}/{key}')
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f'{path}/{i}')
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def compare_numbers(ours: dict, theirs: dict) -> dict:
    "How far the numbers that two figures show are apart."
    ours, theirs = dict(leaves(ours)), dict(leaves(theirs))
    both = ours.keys() & theirs.keys()
    apart = {place: abs(ours[place] - theirs[place]) for place in both}
    share = {place: apart[place] / max(abs(ours[place]), abs(theirs[place]), 1e-12) for place in both}
    most, largest = (max(both, key=table.get, default=None) for table in (share, apart))
    return dict(
        numbers=len(both),
        equal=sum(value == 0 for value in apart.values()),
        within_one_percent=sum(value <= 0.01 for value in share.values()),
        only_in_one=len(ours.keys() ^ theirs.keys()),
        largest_difference=dict(at=largest, apart=apart.get(largest)),
        largest_relative_difference=dict(at=most, apart=share.get(most)),
    )


def compare_books(device: Path, cpu: Path) -> dict:
    "What differs between the figures of two runs of the book, by figure."
    ours, theirs = (json.loads((path / 'manifest.json').read_text())['figures'] for path in (device, cpu))
    found = {}
    for name in sorted(ours.keys() & theirs.keys()):
        same = ours[name]['sha256'] == theirs[name]['sha256']
        numbers = compare_numbers(ours[name].get('numbers', {}), theirs[name].get('numbers', {}))
        found[name] = dict(same_picture=same, **numbers)
    return dict(only_in_one=sorted(ours.keys() ^ theirs.keys()), figures=found)


def figures(args, name: str):
    "The quick profile of the book on one device; on the CPU, then, what differs from the run on the device."
    device, out = ('cpu' if name == 'figures_on_cpu' else args.device), WORK / name
    shutil.rmtree(out, ignore_errors=True)
    workers = max(2, min(4, len(os.sched_getaffinity(0)) // 4))
    note(args.out, name, device=device, workers=workers, data='BloodMNIST, 28 px')
    start = time.perf_counter()
    try:
        if args.small:
            book = small_book(WORK / 'book')
            regenerate('quick', 'bloodmnist', 28, device, out, book=book, workers=workers)
        else:
            run_command(device, out, workers, args.log)
    finally:
        sys.stdout.flush()
        note(args.out, name, **book_times(name, args.log))
    note(args.out, name, book_seconds=round(time.perf_counter() - start, 1))
    if name == 'figures_on_cpu':
        compare_runs(args)


def run_command(device: str, out: Path, workers: int, log: Path):
    "`blood-unet figures` in a process of its own, by the entry point that settings.ini names."
    settings = Path('settings.ini').read_text()
    entry = re.search(r'^console_scripts\b.*\bblood-unet=([\w.]+):(\w+)', settings, re.MULTILINE)
    program = f'from {entry[1]} import {entry[2]}; {entry[2]}()'
    options = f'--profile quick --dataset bloodmnist --size 28 --device {device} --workers {workers} --out'
    process = subprocess.Popen([sys.executable, '-c', program, 'figures', *options.split(), out])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # `timeout` told the command too; it takes its notebooks along
        process.wait(timeout=15)
        raise
    if code:
        said = last_words(log, start='blood-unet: ') or last_words(log)
        raise RuntimeError(f'blood-unet figures: exit status {code}; {said}')


def compare_runs(args):
    "Speed and numbers of the two runs of the book beside each other."
    parts = json.loads(args.out.read_text())['parts']
    there, here = parts.get('figures_on_device', {}), parts['figures_on_cpu']
    before, after = there.get('notebooks', {}), here['notebooks']
    ratio = {name: round(after[name] / max(before[name], 0.1), 2) for name in before if name in after}
    note(args.out, 'figures_on_cpu', ratio_by_notebook=ratio)
    if there.get('status') != 'ok':
        raise RuntimeError('the run on the device did not end well: there is nothing to compare with')
    note(args.out, 'figures_on_cpu', ratio=round(here['book_seconds'] / there['book_seconds'], 2))
    compared = compare_books(WORK / 'figures_on_device', WORK / 'figures_on_cpu')
    note(args.out, 'figures_on_cpu', compared=compared)


# calling


def measure(args):
    "Run one part; its record says how it ended."
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    note(args.out, args.command, status='running')
    start = time.perf_counter()
    ending = dict(status='ok')
    try:
        if MISSING and args.command != 'machine':
            raise RuntimeError(f'{MISSING}')
        kind = args.command.split('_')[0]
        if kind in ('train', 'figures'):
            dict(train=train, figures=figures)[kind](args, args.command)
        else:
            dict(machine=machine, prepare=prepare, explain=explain)[kind](args)
    except KeyboardInterrupt:
        ending = dict(status='failed', reason=f'stopped after {time.perf_counter() - start:.0f} s')
    except Exception as error:
        traceback.print_exc()
        ending = dict(status='failed', reason=f'{type(error).__name__}: {error}'[:600])
    note(args.out, args.command, **ending, seconds=round(time.perf_counter() - start, 1))
    sys.exit(0 if ending['status'] == 'ok' else 1)


PARTS = ('machine', 'prepare', *TRAIN, 'explain', 'figures_on_device', 'figures_on_cpu')


def main():
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    commands = parser.add_subparsers(dest='command', required=True)
    for name in ('begin', 'ended', 'finish', *PARTS):
        command = commands.add_parser(name)
        command.add_argument('--out', type=Path, required=True)
        command.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
        command.add_argument('--small', action='store_true')
        command.add_argument('--log', type=Path)
        if name == 'ended':
            command.add_argument('--name', required=True)
            command.add_argument('--code', type=int, required=True)
            command.add_argument('--limit', type=int, required=True)
        if name == 'finish':
            command.add_argument('--seconds', type=int, required=True)
    command = commands.add_parser('repack')
    command.add_argument('source', type=Path)
    command.add_argument('target', type=Path)
    command.add_argument('compression', choices=('bzip2', 'none'))
    args = parser.parse_args()
    keep_books = dict(begin=begin, ended=ended, finish=finish, repack=repack)
    keep_books.get(args.command, measure)(args)


if __name__ == '__main__':
    main()
