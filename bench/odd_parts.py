"""Changes of one part, planted in healthy cells of BloodMNIST: are they seen, and is the part named?

python bench/odd_parts.py [--role report]     # results/odd_parts.json; --role choose only prints

The reference is that of `reference.py`: of the validation split at 64 px the first 60 cells of each class.
Changed are, of each of the six classes with cytoplasm, the first 60 cells of the test split for the report;
what was added to the measurements was chosen on 30 others of the validation split (`--role choose`).
"""

from pathlib import Path

import typer

from blood_unet.files import write_json
from blood_unet.planted import planted_table
from blood_unet.protocols import planted_by_class


def main(role: str = 'report', each: int = 60):
    found = planted_by_class(each=each, role=role)
    print(planted_table(found).round(3).to_string())
    if role == 'report':
        write_json(found, Path(__file__).parent / 'results' / 'odd_parts.json')


if __name__ == '__main__':
    typer.run(main)
