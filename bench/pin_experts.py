"""The SHA-256 of the published files of the expert sets, into `blood_unet/expert_files.json`.

python bench/pin_experts.py

Needs a network, once: the list is committed. Each set is fetched and converted as `download_expert` does it;
only if it is the one that the book was measured on are the checksums of its files written down.
"""

import json
import tempfile
from pathlib import Path

import typer

from blood_unet import experts
from blood_unet.core import sha256_file
from blood_unet.files import atomic_path

LIST = Path(experts.__file__).parent / 'expert_files.json'


def checksums(name: str) -> dict:
    "SHA-256 by published path of the files of a set, fetched and found to be the right ones."
    with tempfile.TemporaryDirectory() as folder:
        files = experts.fetch_published(name, Path(folder) / 'published')
        experts.check_converted(name, experts.convert_published(files, Path(folder) / name))
        return {file: sha256_file(path) for file, path in files.items()}


def main():
    pinned = json.loads(LIST.read_text(encoding='utf-8'))
    for name in (name for name in experts.EXPERT_SETS if name in pinned):
        pinned[name]['files'] = checksums(name)
        print(f'{name}: {len(pinned[name]["files"])} files')
    with atomic_path(LIST) as path:
        path.write_text(json.dumps(pinned, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    typer.run(main)
