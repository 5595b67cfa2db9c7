"""Build from settings.ini, and ship the notebooks inside the package as `blood_unet/book`."""

import json
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']


class BuildWithBook(build_py):
    """`build_py` that also copies the book, without its outputs, the ledger of claims, and the measurements
    that they read into the package.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return  # a checkout has its book in nbs/
        book = Path(self.build_lib) / cfg['lib_name'] / 'book'
        book.mkdir(parents=True, exist_ok=True)
        for old in book.rglob('*.*'):
            old.unlink()
        for path in sorted((here / cfg['nbs_path']).glob('[0-9][0-9]*_*.ipynb')):
            nb = json.loads(path.read_text(encoding='utf-8'))
            for cell in nb['cells']:
                if cell['cell_type'] == 'code':
                    cell.update(outputs=[], execution_count=None)
            (book / path.name).write_text(
                json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
            )
        for name in ('paper.yaml', 'claims.yaml'):
            self.copy_file(str(here / cfg['nbs_path'] / name), str(book / name))
        self.mkpath(str(book / 'results'))
        for path in sorted((here / 'bench' / 'results').glob('*.json')):
            self.copy_file(str(path), str(book / 'results' / path.name))


notebooks = cfg['notebooks_requirements'].split()
setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires='>=' + cfg['min_python'],
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    package_data={cfg['lib_name']: ['weights/*', 'weights/*/*', 'expert_files.json']},
    include_package_data=False,
    zip_safe=False,
    install_requires=cfg['requirements'].split(),
    extras_require={'notebooks': notebooks, 'dev': notebooks + cfg['dev_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    cmdclass={'build_py': BuildWithBook},
)
